"""What an audit reports of what it found."""

from collections.abc import Sequence

import pytest

from pipeline.audit.findings import Answer, AuditedRelay, AuditReport, Miss, Recall, age_of, held_counts, report
from pipeline.audit.journal import Findings
from pipeline.audit.walk import Unproven
from pipeline.rules.relevance import Rule

NOW = 1_700_000_000
ONE, TWO = AuditedRelay(1, "wss://one.example"), AuditedRelay(2, "wss://two.example", "refused")


def miss(number: int, *relays: int, ago: int = 60) -> Miss:
    return Miss(bytes([number]) * 32, NOW - ago, 1, b"a" * 32, Rule.FOLLOWEE, relays, (), is_fetched=True)


def reported(
    relays: Sequence[AuditedRelay], answers: Sequence[Answer], misses: Sequence[Miss] = (), late: int = 0
) -> AuditReport:
    found = Findings()
    for each in answers:
        found.take(each, ())
    return report(relays, found.answers, held_counts(found.ids, NOW), misses, late, NOW)


def test_events_of_several_relays_count_once_in_all_and_for_each_relay() -> None:
    here = ((NOW - 60, b"x" * 32), (NOW - 90_000, b"y" * 32))
    answers = [
        Answer(1, "author:a", Rule.USER, here, {"invalid-signature": 2}),
        Answer(2, "author:a", Rule.USER, here[:1], {"invalid-signature": 1}, (Unproven(1, 2, "refused"),)),
    ]
    found = reported([ONE, TWO], answers, [miss(1, 1, 2), miss(2, 2, ago=90_000)], 3)
    assert found.total == Recall(2, 2)
    assert dict(found.by_rule) == {"user": Recall(2, 0), "followee": Recall(0, 2), "mention": Recall(0, 0)}
    assert found.by_relay == ((ONE, Recall(2, 1)), (TWO, Recall(1, 2)))
    ages = {name: recall for name, recall in found.by_age if recall.held or recall.missed}
    assert ages == {"up to 1 h": Recall(1, 1), "up to 3 d": Recall(1, 1)}
    assert (found.excluded, found.late) == ({"invalid-signature": 3}, 3)
    assert found.unproven == ((TWO.address, "author:a", Unproven(1, 2, "refused")),)


def test_recall_of_nothing_is_no_number() -> None:
    assert reported([ONE], []).total.share is None
    assert Recall(3, 1).to_value() == {"held": 3, "missed": 1, "recall": 0.75}


@pytest.mark.parametrize(
    ("ago", "name"),
    [(-5, "up to 1 h"), (3_600, "up to 1 h"), (3_601, "up to 6 h"), (86_400 * 30, "up to 30 d"), (NOW, "older")],
)
def test_age_has_a_name(ago: int, name: str) -> None:
    assert age_of(NOW - ago, NOW) == name


WHOLE = Answer(1, "author:a", Rule.USER)
HOLES = Answer(1, "author:b", Rule.USER, unproven=(Unproven(1, 2, "refused"),))


@pytest.mark.parametrize(
    ("relays", "answers", "is_proven"),
    [
        ([ONE], [WHOLE], True),
        ([ONE, TWO], [WHOLE, HOLES], True),
        ([ONE], [HOLES], False),
        ([TWO], [Answer(2, "author:a", Rule.USER)], False),
        ([ONE], [], False),
        ([], [], False),
    ],
)
def test_audit_is_proven_by_a_whole_answer_of_a_relay_without_problem(
    relays: list[AuditedRelay], answers: list[Answer], is_proven: bool
) -> None:
    assert reported(relays, answers).is_proven is is_proven
