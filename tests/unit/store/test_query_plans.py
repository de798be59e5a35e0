"""Statements that run all the time use their index: no sorting, and no walk over what they do not need."""

import re

import apsw
import pytest

from pipeline.store import (
    contacts,
    cursors,
    events,
    inbox,
    outbox,
    relay_lists,
    relay_mentions,
    relay_pruning,
    relay_status,
    relays,
    retractions,
    shares,
    spellings,
    users,
    wanted_authors,
)
from pipeline.store.database import Database, Tx
from pipeline.store.sinks import SinkName


def bindings(statement: str) -> int:
    numbered = [int(number) for number in re.findall(r"\?(\d+)", statement)]
    return max(numbered) if numbered else statement.count("?")


def plan(db: Database, statement: str) -> list[str]:
    with db.read() as tx:
        rows = tx.execute(f"EXPLAIN QUERY PLAN {statement}", (1,) * bindings(statement))
        return [str(row[3]) for row in rows]


def test_a_claim_reads_ready_rows_off_the_index_in_order(db: Database) -> None:
    assert plan(db, inbox.CLAIM) == [
        "SEARCH inbox USING INTEGER PRIMARY KEY (rowid=?)",
        "LIST SUBQUERY 1",
        "SEARCH inbox USING COVERING INDEX inbox_ready (ready_at<?)",
    ]
    assert plan(db, inbox.READY) == ["SEARCH inbox USING INDEX inbox_ready (ready_at<?)"]
    for statement in (outbox.CLAIM, outbox.CLAIM_NEWEST):
        assert plan(db, statement) == [
            "SEARCH outbox USING INTEGER PRIMARY KEY (rowid=?)",
            "LIST SUBQUERY 1",
            "SEARCH outbox USING COVERING INDEX outbox_ready (sink=? AND ready_at<?)",
        ]


@pytest.mark.parametrize("statement", [inbox.CLAIM, inbox.READY, outbox.CLAIM, outbox.EVENT])
def test_statement_is_not_prepared_again_for_other_values(db: Database, statement: str) -> None:
    prepared = 0

    def authorize(*_: object) -> int:
        nonlocal prepared
        prepared += 1
        return apsw.SQLITE_OK

    def run(tx: Tx, value: int) -> None:
        tx.execute(statement, (value,) * bindings(statement)).fetchall()

    with db.write() as tx:
        tx.authorizer = authorize
        run(tx, 1)
        run(tx, 2)
        assert prepared
        prepared = 0
        run(tx, 3)
        tx.authorizer = None
    assert not prepared


@pytest.mark.parametrize(
    "statement",
    [
        inbox.NEXT_READY,
        inbox.WAITING,
        inbox.SIZE,
        inbox.SIZE_AT_MOST,
        outbox.ANY_READY,
        outbox.WAITING,
        outbox.SIZE,
        outbox.SIZE_AT_MOST,
    ],
)
def test_looking_whether_there_is_work_reads_only_the_ready_index(db: Database, statement: str) -> None:
    steps = [step for step in plan(db, statement) if "inbox" in step or "outbox" in step]
    assert len(steps) == 1
    assert "USING COVERING INDEX" in steps[0]
    assert "_ready" in steps[0]


@pytest.mark.parametrize(
    ("statement", "index"),
    [(inbox.FUTURE, "inbox_ready (ready_at>?)"), (outbox.FUTURE, "outbox_ready (sink=? AND ready_at>?)")],
)
def test_rows_of_a_time_to_come_are_looked_for_beyond_the_others(db: Database, statement: str, index: str) -> None:
    (step,) = plan(db, statement)
    assert step.endswith(f"USING INDEX {index}")


@pytest.mark.parametrize(
    "statement",
    [
        inbox.KNOWN,
        inbox.APPEND,
        inbox.LAST,
        inbox.OLDEST,
        outbox.EVENT,
        outbox.OLDEST,
        *(statements.ack for statements in (inbox.queue._statements, outbox.queue._statements)),
        *(statements.nack for statements in (inbox.queue._statements, outbox.queue._statements)),
        *(statements.postpone for statements in (inbox.queue._statements, outbox.queue._statements)),
        *(statements.release for statements in (inbox.queue._statements, outbox.queue._statements)),
        *(statements.dead_letter for statements in (inbox.queue._statements, outbox.queue._statements)),
        events.SEEN,
        events.DONE_AMONG,
        events.FIRST_SEEN_AFTER,
        events.FORGET_SEEN,
        retractions.RETRACTED,
        retractions.NEXT_DELETIONS,
        retractions.NEXT_VANISHED,
        wanted_authors.AUTHORS_CHANGED_SINCE,
        wanted_authors.REGISTERED_CHANGED_SINCE,
        relay_lists.LATEST,
        relay_lists.LIST_OF,
        relay_lists.CHANGED_SINCE,
        relay_lists.OF_CHANGED_AUTHORS,
        contacts.LIST_OF,
        contacts.FOLLOWEES,
        contacts.COUNT_FOLLOWERS,
        contacts.COUNT_FOLLOWEES,
        users.REGISTERED_AT,
        contacts.PLACES,
        shares.HOLDING,
        shares.PUT,
        shares.COUNT_ALL,
        shares.ALL_WAIT,
        shares.HELD,
        shares.WAITING_USERS,
        cursors.OF_RELAY,
        relays.FIND,
        relay_status.PUT_STATUS,
        relay_mentions.UPSERT,
        relay_mentions.HAS_MENTIONED,
        relay_mentions.ADD_MENTION,
        relay_mentions.COUNT_MENTION,
        relay_mentions.MARK_MENTIONED_BY_USER,
        relay_mentions.COPY_MENTIONS,
        spellings.FIND,
        spellings.COUNT,
        spellings.ADD_SPELLER,
        spellings.COUNT_SPELLER,
        relay_pruning.FORGET_MENTION,
        relay_pruning.UNCOUNT_MENTION,
        *relay_pruning.FORGET,
    ],
)
def test_nothing_is_sorted_and_no_table_walked(db: Database, statement: str) -> None:
    """The oldest row of the inbox is the first of the table, so that walk ends where it begins."""
    steps = plan(db, statement)
    assert not any("TEMP B-TREE" in step for step in steps), steps
    scans = [step for step in steps if step.startswith("SCAN") and step not in ("SCAN CONSTANT ROW", "SCAN inbox")]
    assert scans == []


def test_an_id_is_looked_up_under_its_time(db: Database) -> None:
    """And not among all of that second's or of all times."""
    assert plan(db, events.SEEN)[0] == "SEARCH seen USING PRIMARY KEY (created_at=? AND event_id=?)"
    assert "SEARCH seen USING PRIMARY KEY (created_at=? AND event_id=?)" in plan(db, inbox.KNOWN)
    assert plan(db, events.FIRST_SEEN_AFTER) == ["SEARCH seen USING PRIMARY KEY ((created_at,event_id)>(?,?))"]


@pytest.mark.parametrize("ready", [False, True])
def test_a_claim_costs_the_same_however_much_others_wait_for(db: Database, ready: bool) -> None:
    """Counted in steps of SQLite's machine: rows that are leased, backing off or of another sink are not looked at."""
    steps: list[int] = []
    with db.write() as tx:
        for backlog in (0, 2_000):
            later = 0 if ready else 10**9
            tx.executemany(
                "INSERT INTO outbox (event, sink, ready_at) VALUES (?, 'relay', 0)", ((n,) for n in range(backlog))
            )
            tx.executemany(
                "INSERT INTO outbox (event, sink, ready_at) VALUES (?, 'pubsub', ?)",
                ((n, later) for n in range(backlog)),
            )
            tx.executemany(
                "INSERT INTO outbox (event, sink, ready_at) VALUES (?, 'pubsub', 0)", ((n,) for n in range(5))
            )
            counted = [0]

            def count(counted: list[int] = counted) -> bool:
                counted[0] += 1
                return False

            tx.set_progress_handler(count, 1)
            assert len(outbox.claim(tx, SinkName.PUBSUB, now=1, lease=10**6, limit=5)) == 5
            tx.set_progress_handler(None)
            steps.append(counted[0])
    assert steps[1] < 2 * steps[0]


def test_whether_an_author_may_name_more_reads_only_an_index_of_their_own(db: Database) -> None:
    assert "SEARCH relay_namers USING COVERING INDEX relay_namers_author (author=? AND as_monitor=?)" in plan(
        db, relay_pruning.NAMED_BY
    )


def test_unanswered_addresses_are_counted_and_deleted_by_their_index(db: Database) -> None:
    """Of that index, the oldest are the first."""
    for statement in (relay_pruning.COUNT_UNANSWERED, relay_pruning.OLDEST_UNANSWERED):
        steps = plan(db, statement)
        assert re.fullmatch("SCAN relays USING (COVERING )?INDEX relays_unanswered", steps[0])
        assert not any("TEMP B-TREE" in step for step in steps)
