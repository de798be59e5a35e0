"""What the judges of some rows make of a relay's journal."""

import pytest

from tests.fakes.relay_journal import Answered, Journal, Refused, Req
from tests.tools.completeness.asked_again import asked_again_fault, forms_asked_again
from tests.tools.completeness.deployment import most_at_once

WALL = 1_800_000_000


def page(number: int, at: float, **members: object) -> Req:
    return Req(at=at, connection=1, subscription=f"P{number}", filters=({"limit": 500, **members},))


def journal(*entries: Req | Refused | Answered) -> Journal:
    made = Journal()
    for each in entries:
        made.add(each)
    return made


def refusal(number: int, at: float, reason: str) -> Refused:
    return Refused(at=at, connection=1, subscription=f"P{number}", how="closed", reason=reason)


@pytest.mark.parametrize(
    ("reason", "later", "count"),
    [
        ("blocked: no", page(2, 60.0, kinds=[1], since=7), 1),
        ("restricted: no", page(2, 60.0, kinds=[1], limit=100), 1),
        ("rate-limited: slow down", page(2, 60.0, kinds=[1]), 0),
        ("blocked: No more than 3 subscriptions are allowed at any one time", page(2, 60.0, kinds=[1]), 0),
        ("blocked: no", page(2, 1.5, kinds=[1]), 0),
        ("blocked: no", page(2, 60.0, kinds=[2]), 0),
        ("blocked: no", page(2, 60.0, kinds=[1], limit=1), 0),
    ],
)
def test_only_the_same_form_long_after_a_lasting_refusal_is_asked_again(reason: str, later: Req, count: int) -> None:
    entries = journal(page(1, 1.0, kinds=[1], until=9), refusal(1, 1.1, reason), later)
    assert forms_asked_again(entries) == count
    assert bool(asked_again_fault(entries)) == bool(count)


def swept(begun: float, ended: float, **members: object) -> tuple[Journal, int]:
    """A relay with a page of the last days, after one before."""
    before, answered = page(1, 0.0, since=WALL - 9_000), Answered(at=99.0, connection=1, subscription="P1", events=1)
    asked = page(2, begun, **{"since": WALL - 9_000, **members})
    return journal(before, answered, asked, Answered(at=ended, connection=1, subscription="P2", events=1)), 1


def test_relays_with_an_open_page_of_the_last_days_are_counted() -> None:
    assert most_at_once([swept(1, 3), swept(2, 4), swept(3.5, 5)], WALL) == 2
    assert most_at_once([swept(1, 3, since=WALL - 900), swept(2, 4, kinds=[1059]), swept(2, 4, ids=["0"])], WALL) == 0
    assert most_at_once([swept(1, 3, until=WALL - 8_999)], WALL) == 0
