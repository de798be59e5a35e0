"""NIP-42: the event that answers a challenge."""

from pipeline.nostr.auth import auth_event
from pipeline.nostr.event import public_key, verify
from pipeline.nostr.kinds import is_ephemeral
from tests.unit.nostr.strategies import SECRET


def test_the_answer_to_a_challenge() -> None:
    event = auth_event(SECRET, "wss://relay.example/path?x=1", 'a+b/"c', 1_700_000_000)
    verify(event)
    assert event.kind == 22242
    assert is_ephemeral(event.kind)
    assert event.pubkey == public_key(SECRET)
    assert event.created_at == 1_700_000_000
    assert event.content == ""
    assert event.tags == [["relay", "wss://relay.example/path?x=1"], ["challenge", 'a+b/"c']]
