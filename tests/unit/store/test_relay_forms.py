"""Checks of forms: stored by relay, and what they take back with them."""

from pipeline.store import cursors, relay_forms, relay_records, relays, sweeps
from pipeline.store.cursors import Cursor
from pipeline.store.database import Database
from pipeline.store.relay_forms import FormChanges, FormCheck
from pipeline.store.sweeps import SweepProgress

LATEST = 10**10


def test_checks_are_replaced_and_read_by_relay(db: Database) -> None:
    first, second = FormCheck("mentions/low", "whole", 5, 1), FormCheck("mentions/low", "holes", 90_000, 4)
    other = FormCheck("authors/low", "whole", 7, 1)
    with db.write() as tx:
        relay_forms.put(tx, 1, FormChanges((first, other)))
        relay_forms.put(tx, 2, FormChanges((first,)))
        relay_forms.put(tx, 1, FormChanges((second,)))
    with db.read() as tx:
        assert relay_forms.of_relay(tx, 1) == [other, second]
        assert relay_forms.of_relay(tx, 2) == [first]


def test_what_is_owed_takes_back_its_cursors_and_progress_and_no_others(db: Database) -> None:
    queries = ("mentions/", "mentions/01", "authors/01", "resweep:mentions/01", "global/")
    kept = [Cursor(1, query, 100, 1) for query in ("authors/01", "global/", "resweep:mentions/01")]
    left = [SweepProgress(1, sweep, 10, 90, 100, 1) for sweep in ("initial:authors/01", "initial:mentions/01")]
    with db.write() as tx:
        relays.set_bootstrap(tx, ["wss://relay.example.com"], 1)
        for relay in (1, 2):
            cursors.advance(tx, (Cursor(relay, query, 100, 1) for query in queries), LATEST)
        sweeps.put(tx, left)
        relay_forms.put(tx, 1, FormChanges((FormCheck("mentions/low", "holes", 5, 4),), ("mentions",), '{"a":1}'))
    with db.read() as tx:
        assert sorted(cursors.of_relay(tx, 1), key=lambda each: each.query) == kept
        assert len(cursors.of_relay(tx, 2)) == len(queries)
        assert sweeps.of_relay(tx, 1) == left[:1]
        assert relay_records.records(tx, everything=True, limit=1)[0].limits == '{"a":1}'
