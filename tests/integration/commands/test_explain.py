"""`event-service explain` as its operator runs it."""

import json
from pathlib import Path

from pipeline.nostr.nip19 import encode_note
from pipeline.process.clock import SystemClock
from pipeline.store import inbox
from pipeline.store.inbox import Arrival
from pipeline.store.schema import open_database
from tests.factories.events import Author
from tests.integration.commands.operator import Operator


def test_an_event_is_explained_by_either_form_of_its_id(tmp_path: Path) -> None:
    event = Author.from_seed(1, 1).sign("x", kind=0, created_at=5)
    event_id = bytes.fromhex(event.id)
    with open_database(tmp_path / "events.db", SystemClock()) as database, database.write() as tx:
        inbox.append(tx, [Arrival(event_id, event.raw.encode(), 1, 1, 5)])
    operator = Operator(tmp_path / "events.db")
    text = operator.succeed("explain", event.id.upper())
    assert "kind 0 is relevant from every author" in text
    pairs = json.loads(operator.succeed("explain", encode_note(event_id), "--json"))
    assert ["event", event.id] in pairs
    assert "kind 0 is relevant from every author" in operator.succeed("explain", event.id, "--created-at", "5")


def test_an_unknown_event_and_what_is_no_id(tmp_path: Path) -> None:
    open_database(tmp_path / "events.db", SystemClock()).close()
    operator = Operator(tmp_path / "events.db")
    assert "never accepted" in operator.run("explain", "ab" * 32).stdout
    assert operator.run("explain", "ab" * 32).returncode == 1
    assert "64 hexadecimal digits, note1" in operator.fail("explain", "npub1x", code=2)
