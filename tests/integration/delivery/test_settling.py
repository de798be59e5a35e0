"""Verdicts and the next claim in one transaction, and what becomes of them if none comes or a process dies between."""

import math
import threading
from collections.abc import Sequence
from functools import partial

import pytest

from pipeline.delivery import batch_worker
from pipeline.delivery.batch_worker import BatchWorker
from pipeline.delivery.outbox_client import OutboxClient, reclaim_leases
from pipeline.delivery.poison import is_suspect
from pipeline.delivery.unsettled import Unsettled
from pipeline.sinks.base import DELIVERED, Message, Refused, Retry, Verdict, Verdicts
from pipeline.store import outbox
from pipeline.store.outbox import OutboxRow
from pipeline.store.sinks import SinkName
from tests.integration.delivery.support import PATIENCE_S, Loop, Outbox, notes, wait_until
from tests.integration.delivery.test_batch_worker import Told, take
from tests.integration.delivery.test_stream_worker import Told as StreamTold

NEVER_S = 1e9


@pytest.fixture
def client(box: Outbox) -> OutboxClient:
    """A client that settles when it is told to."""
    return Loop(box, Told(), unsettled=Unsettled(within_s=NEVER_S)).client


def verdicts(rows: list[OutboxRow], *given: Verdict) -> list[tuple[OutboxRow, Verdict]]:
    return list(zip(rows, given, strict=True))


def test_a_claim_commits_what_is_unsettled(box: Outbox, client: OutboxClient, no_retries: None) -> None:
    """Each kind of verdict, with the counts."""
    box.put(notes(6))
    first = client.claim(box.database, 4)
    client.defer(
        verdicts(first, DELIVERED, Refused("too-large"), Refused("odd", dead_letter=True), Retry("error")), 0.1
    )
    assert box.outcomes() == {}
    second = client.claim(box.database, 1)
    assert [row.event for row in second] == [5]
    assert box.outcomes() == {1: "delivered", 2: "refused: too-large"}
    assert box.dead() == {3: "odd"}
    assert [row[:3] for row in box.rows()] == [(4, 1, 1), (5, 1, 0), (6, 0, 0)]
    value = client.metrics.registry.get_sample_value
    assert value("event_service_stage_in_total", {"stage": "forwarder"}) == 3
    assert value("event_service_stage_out_total", {"stage": "forwarder"}) == 1


def test_settling_and_claiming_are_one_transaction(
    box: Outbox, client: OutboxClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the claim fails, the verdicts are not committed either."""
    box.put(notes(2))
    client.defer(verdicts(client.claim(box.database, 1), DELIVERED), 0.1)

    def fail(*_: object, **__: object) -> list[OutboxRow]:
        raise ZeroDivisionError

    monkeypatch.setattr(outbox, "claim", fail)
    with pytest.raises(ZeroDivisionError):
        client.claim(box.database, 1)
    assert box.outcomes() == {}
    assert [row[:2] for row in box.rows()] == [(1, 1), (2, 0)]


def test_without_ready_rows_a_claim_settles_nothing(box: Outbox, client: OutboxClient) -> None:
    box.put(notes(1))
    client.defer(verdicts(client.claim(box.database, 1), DELIVERED), 0.1)
    assert client.claim(box.database, 1) == []
    assert box.outcomes() == {}
    client.settle(box.database)
    assert box.outcomes() == {1: "delivered"}


def test_a_stale_verdict_in_a_claim_changes_nothing(box: Outbox, client: OutboxClient) -> None:
    """The others in the same transaction are committed, and it is counted."""
    box.put(notes(3))
    rows = client.claim(box.database, 2)
    box.execute("UPDATE outbox SET claims = claims + 1 WHERE event = 1")
    client.defer(verdicts(rows, DELIVERED, DELIVERED), 0.1)
    client.claim(box.database, 1)
    assert [row[:2] for row in box.rows()] == [(1, 2), (3, 1)]
    value = client.metrics.registry.get_sample_value
    stale = {"stage": "forwarder", "kind": "stale-receipt"}
    assert value("event_service_stage_errors_total", stale) == 1
    assert value("event_service_stage_in_total", {"stage": "forwarder"}) == 1


def test_a_process_killed_before_it_settles_delivers_again(box: Outbox, client: OutboxClient) -> None:
    """Its rows are ready again at once for its successor, as suspects."""
    box.put(notes(3))
    client.defer(verdicts(client.claim(box.database, 2), DELIVERED, DELIVERED), 0.1)
    successor = Loop(box, Told()).client
    reclaim_leases(box.database, "forwarder-0", box.clock.now_ms())
    rows = successor.claim(box.database, 10)
    assert sorted(row.event for row in rows) == [1, 2, 3]
    assert sorted(row.event for row in rows if is_suspect(row)) == [1, 2]
    successor.defer(verdicts(rows, DELIVERED, DELIVERED, DELIVERED), 0.1)
    successor.settle(box.database)
    assert box.rows() == []


def test_verdicts_are_committed_though_no_claim_follows(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_worker, "_IDLE_S", 10 * PATIENCE_S)
    box.put(notes(3))
    with Loop(box, Told()):
        box.wait_empty()
    assert len(box.outcomes()) == 3


def test_a_worker_settles_while_another_has_the_turn(box: Outbox) -> None:
    """That one may wait for rows for long, and does not know of verdicts that came since."""
    box.put(notes(1))
    turn = threading.Lock()

    def take_the_turn(batch: Sequence[Message]) -> Verdicts:
        assert turn.acquire(timeout=PATIENCE_S)
        return take(batch)

    loop = Loop(box, Told([take_the_turn]))
    assert isinstance(loop.worker, BatchWorker)
    loop.worker.turn = turn
    with loop:
        box.wait_empty()
        turn.release()
    assert box.outcomes() == {1: "delivered"}


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_next_claim_settles_and_so_does_the_end(box: Outbox, is_stream: bool) -> None:
    if is_stream:
        box.sink = SinkName.RELAY
    sink = StreamTold() if is_stream else Told()
    with Loop(box, sink, unsettled=Unsettled(within_s=NEVER_S)) as loop:

        def settled_but_the_last(count: int) -> bool:
            return len(box.outcomes()) == count - 1 and loop.client.settle_due_in_s() < math.inf

        for number in range(4):
            box.put(notes(1, first=number))
            wait_until(partial(settled_but_the_last, number + 1))
    assert box.rows() == []
    assert box.outcomes() == dict.fromkeys(range(1, 5), "delivered")
