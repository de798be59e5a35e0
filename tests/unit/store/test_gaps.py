"""The rows of open gaps."""

from pipeline.store import gaps, relays
from pipeline.store.database import Database
from pipeline.store.gaps import GapChanges, GapSummary, OpenGap


def gap(since: int, *, relay: int = 1, form: str = "authors/0", reason: str = "dense-second", at: int = 5) -> OpenGap:
    return OpenGap(relay, form, reason, since, since + 1, at)


def test_what_was_opened_is_there_until_it_is_closed(db: Database) -> None:
    with db.write() as tx:
        gaps.put(tx, [GapChanges(opened=(gap(1), gap(9), gap(1, relay=2)))])
        gaps.put(tx, [GapChanges(closed=(gap(1),), opened=(gap(20),))])
        assert gaps.of_relay(tx, 1) == [gap(9), gap(20)]
        assert gaps.of_relay(tx, 2) == [gap(1, relay=2)]
        assert gaps.by_reason(tx) == {"dense-second": 3}


def test_a_gap_that_grew_replaces_the_one_with_the_same_beginning(db: Database) -> None:
    grown = OpenGap(1, "authors/0", "dense-second", 1, 7, 5)
    with db.write() as tx:
        gaps.put(tx, [GapChanges(opened=(gap(1),)), GapChanges(closed=(gap(1),), opened=(grown,))])
        assert gaps.of_relay(tx, 1) == [grown]


def test_a_summary_counts_and_names_the_newest(db: Database) -> None:
    with db.write() as tx:
        relays.set_bootstrap(tx, ["wss://a.example"], 1)
        number = tx.execute("SELECT id FROM relays").get
        rows = (gap(1, relay=number), gap(50, relay=number, at=9), gap(3, relay=number, reason="refused"))
        gaps.put(tx, [GapChanges(opened=rows)])
        assert gaps.summaries(tx, limit=10) == [
            GapSummary("wss://a.example", "dense-second", 2, "authors/0", 50, 51, 9),
            GapSummary("wss://a.example", "refused", 1, "authors/0", 3, 4, 5),
        ]
