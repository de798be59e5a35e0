"""`event-service coverage` as its operator runs it."""

import json
from pathlib import Path

from pipeline.nostr.nip19 import encode_npub
from pipeline.process.clock import SystemClock
from pipeline.store import relay_mentions, relay_status, relays, users
from pipeline.store.authors import Authors
from pipeline.store.relay_status import RelayState, RelayStatus
from pipeline.store.schema import open_database
from tests.integration.commands.operator import Operator

KEY = b"\3" * 32
RELAY = "wss://one.example"


def test_coverage_is_printed_as_text_and_as_json(tmp_path: Path) -> None:
    with open_database(tmp_path / "events.db", SystemClock()) as database, database.write() as tx:
        users.register(tx, KEY, 1_700_000_000_000)
        author = Authors().intern(tx, KEY)
        relay_mentions.record_mention(tx, RELAY, source="hint", author=author, is_user=True, now=1)
        number = relays.find(tx, RELAY)
        assert number is not None
        relay_status.start_crawling(tx, [number], 1)
        relay_status.put_statuses(tx, [RelayStatus(number, RELAY, RelayState.CONNECTED, 1, 1, 0, 0, 0, "")])
    operator = Operator(tmp_path / "events.db")
    text = operator.succeed("coverage", encode_npub(KEY))
    assert "registered 2023-11-14T22:13:20Z" in text
    assert f"{RELAY}: connected, named by the user (mention)" in text
    assert "events that mention users: never complete" in text
    value = json.loads(operator.succeed("coverage", KEY.hex(), "--json"))
    assert (value["public_key"], value["relays"][0]["address"]) == (KEY.hex(), RELAY)
    assert (value["registered_at"], value["contacts_dated"]) == ("2023-11-14T22:13:20Z", None)
    assert {query["complete_until"] for query in value["relays"][0]["queries"]} == {None}


def test_author_who_is_not_wanted_is_refused(tmp_path: Path) -> None:
    open_database(tmp_path / "events.db", SystemClock()).close()
    operator = Operator(tmp_path / "events.db")
    assert "is not wanted" in operator.fail("coverage", "ab" * 32)
    operator.fail("coverage", "alice", code=2)
