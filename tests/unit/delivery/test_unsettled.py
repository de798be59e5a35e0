"""Verdicts that wait for a claim to ride with."""

import math

from pipeline.delivery.unsettled import MAX_SETTLED, SETTLE_WITHIN_S, Settlement, Unsettled
from pipeline.sinks.base import DELIVERED
from pipeline.store.lease import Receipt
from pipeline.store.outbox import OutboxRow


def settlement(rows: int, at_s: float = 0.0) -> Settlement:
    row = OutboxRow(Receipt(1, 1), failures=0, returned=0, event=1, event_id=b"", payload=b"", received_at=0)
    return Settlement([(row, DELIVERED)] * rows, 0.0, 0, at_s)


def test_nothing_is_never_due() -> None:
    unsettled = Unsettled()
    assert unsettled.due_in_s(0) == math.inf
    assert unsettled.take() == []


def test_the_oldest_settlement_decides_when_to_settle() -> None:
    unsettled = Unsettled()
    unsettled.add(settlement(1, at_s=0.0))
    unsettled.add(settlement(1, at_s=200.0))
    assert unsettled.due_in_s(0.0) == SETTLE_WITHIN_S
    assert unsettled.due_in_s(150.0) == 0.0
    assert [each.at_s for each in unsettled.take()] == [0.0, 200.0]
    assert unsettled.due_in_s(300.0) == math.inf


def test_rows_of_one_transaction_are_bounded() -> None:
    """By whole settlements, in their order, of which each is taken once."""
    unsettled = Unsettled()
    sizes = [MAX_SETTLED // 2, MAX_SETTLED, 1, 3 * MAX_SETTLED, 2]
    for size in sizes:
        unsettled.add(settlement(size))
    taken = []
    while some := unsettled.take():
        taken.append([len(each.verdicts) for each in some])
    assert taken == [sizes[:2], sizes[2:4], sizes[4:]]
