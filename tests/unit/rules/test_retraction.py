"""What deletions and requests to vanish take back."""

import pytest

from pipeline.nostr.event import Event, sign
from pipeline.nostr.tags import coordinate
from pipeline.rules.retraction import MAX_TARGETS, Retraction, retraction

SECRET = bytes(31) + b"\x07"
OTHER = "11" * 32


def event(kind: int, *tags: list[str]) -> Event:
    return sign(SECRET, created_at=1000, kind=kind, tags=list(tags), content="")


def own_key() -> str:
    return event(1).pubkey.hex()


def test_most_events_take_nothing_back() -> None:
    assert retraction(event(1, ["e", "aa" * 32], ["relay", "ALL_RELAYS"])) is None


def test_a_deletion_names_events() -> None:
    found = retraction(event(5, ["e", "aa" * 32], ["e", "BB" * 32], ["e", "cc"], ["e"]))
    assert found == Retraction(event_ids=frozenset({bytes.fromhex("aa" * 32)}))


@pytest.mark.parametrize("end", ["", ":"])
def test_a_deletion_names_the_contact_lists_of_its_author(end: str) -> None:
    coordinates = frozenset({f"3:{own_key()}:"})
    assert retraction(event(5, ["a", f"3:{own_key()}{end}"])) == Retraction(
        coordinates=coordinates, contacts_until=1000
    )


def test_a_deletion_names_the_relay_lists_of_its_author() -> None:
    coordinates = frozenset({f"10002:{own_key()}:"})
    assert retraction(event(5, ["a", f"10002:{own_key()}:"])) == Retraction(
        coordinates=coordinates, relay_list_until=1000
    )


def test_a_deletion_names_addresses() -> None:
    """As whatever stands there is called, so that both meet."""
    article, profile = event(30023, ["d", "a:b\nc"], ["d", "x"]), event(0)
    named = [coordinate(article), coordinate(profile)]
    found = retraction(event(5, *(["a", str(text), "wss://relay.example.com"] for text in named)))
    assert found == Retraction(coordinates=frozenset({f"30023:{own_key()}:a:b\nc", f"0:{own_key()}:"}))


@pytest.mark.parametrize("wrong", ["1:KEY:", "030023:KEY:x", "30023:KEYx", "x:KEY:", "70000:KEY:", f"30023:{OTHER}:x"])
def test_what_is_no_address_of_the_author_takes_nothing_back(wrong: str) -> None:
    assert retraction(event(5, ["a", wrong.replace("KEY", own_key())])) == Retraction()
    assert coordinate(event(1)) is None


def test_nobody_deletes_the_contact_lists_of_others() -> None:
    assert retraction(event(5, ["a", f"3:{OTHER}:"])) == Retraction()


def test_a_deletion_of_very_many_events_is_cut_short() -> None:
    tags = [["e", f"{number:064x}"] for number in range(MAX_TARGETS + 1)]
    found = retraction(event(5, *tags))
    assert found is not None
    assert len(found.event_ids) == MAX_TARGETS


def test_vanishing_from_all_relays_takes_everything_back() -> None:
    assert retraction(event(62, ["relay", "ALL_RELAYS"])) == Retraction(
        contacts_until=1000, relay_list_until=1000, vanished_until=1000
    )


def test_vanishing_from_one_relay_takes_nothing_back() -> None:
    assert retraction(event(62, ["relay", "wss://relay.example.com"])) is None
