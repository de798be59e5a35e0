"""What an audit finds, as it is kept and as it is reported."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.audit.walk import Unproven
from pipeline.rules.relevance import Rule
from pipeline.store.audit_ids import AuditIds

_HOUR: Final = 3_600
# Upper bounds of ages (s), and their names.
AGES: Final = (
    (_HOUR, "up to 1 h"), (6 * _HOUR, "up to 6 h"), (24 * _HOUR, "up to 1 d"), (3 * 24 * _HOUR, "up to 3 d"),
    (7 * 24 * _HOUR, "up to 7 d"), (30 * 24 * _HOUR, "up to 30 d"),
)  # fmt: skip
OLDER: Final = "older"
ASKED_RULES: Final = (Rule.USER, Rule.FOLLOWEE, Rule.MENTION)
"""Those that questions are asked by: what all authors write cannot be asked for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one relay to one question: what it has that is held here, and what was left out of account.

    `had`: time and id of each event; `excluded`: how many events are not counted, by reason; `by_ids`: compared as sets
    (NIP-77).
    """

    relay: int
    question: str
    rule: Rule
    had: tuple[tuple[int, bytes], ...] = ()
    excluded: Mapping[str, int] = field(default_factory=dict)
    unproven: tuple[Unproven, ...] = ()
    by_ids: bool = False


@dataclass(frozen=True, slots=True)
class Suspect:
    """A verified, wanted event of a relay that was not held when the relay returned it, at `found_at` (ms)."""

    relay: int
    rule: Rule
    event_id: bytes
    created_at: int
    raw: bytes
    found_at: int


@dataclass(frozen=True, slots=True)
class Miss:
    """An event that relays have and the service did not, a while after it was found there.

    `trace`: what `explain` said of it then, as subject and text; `is_fetched`: it was put into the inbox.
    """

    event_id: bytes
    created_at: int
    kind: int
    author: bytes
    rule: Rule
    relays: tuple[int, ...]
    trace: tuple[tuple[str, str], ...]
    is_fetched: bool


@dataclass(frozen=True, slots=True)
class AuditedRelay:
    """A relay, and how its audit ended: `problem` is empty where every question was put to it."""

    relay: int
    address: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Recall:
    """How many events relays have that are held here, and how many are not."""

    held: int
    missed: int

    @property
    def share(self) -> float | None:
        """Return the share of those that are held; None of nothing."""
        return self.held / (self.held + self.missed) if self.held + self.missed else None

    def to_value(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return {"held": self.held, "missed": self.missed, "recall": self.share}


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The outcome of an audit. Events that several relays have count once, but for each of them in `by_relay`."""

    total: Recall
    by_relay: tuple[tuple[AuditedRelay, Recall], ...]
    by_rule: tuple[tuple[str, Recall], ...]
    by_age: tuple[tuple[str, Recall], ...]
    misses: tuple[Miss, ...]
    excluded: Mapping[str, int]
    unproven: tuple[tuple[str, str, Unproven], ...]
    """Relay and question of each."""
    late: int
    """Events that arrived by themselves between being found and being looked for again."""
    is_proven: bool
    """Whether a relay was asked everything, and at least one of its answers was whole."""


def age_of(created_at: int, now_s: int) -> str:
    """Return the name of the age of an event of that time."""
    return next((name for bound, name in AGES if now_s - created_at <= bound), OLDER)


@dataclass(frozen=True, slots=True)
class HeldCounts:
    """How many events relays returned that are held: in all, by relay, rule and name of age."""

    total: int
    by_relay: Mapping[int, int]
    by_rule: Counter[str]
    by_age: Counter[str]


def held_counts(ids: AuditIds, now_s: int) -> HeldCounts:
    """Count what relays returned, each event once, but for each relay in `by_relay`."""
    total, rules, ages = 0, Counter[str](), Counter[str]()
    for created_at, rule in ids.returned():
        total += 1
        rules[rule] += 1
        ages[age_of(created_at, now_s)] += 1
    return HeldCounts(total, ids.count_by_relay(), rules, ages)


def report(
    relays: Sequence[AuditedRelay], answers: Iterable[Answer], held: HeldCounts, misses: Sequence[Miss], late: int,
    now_s: int,
) -> AuditReport:  # fmt: skip
    """Put together what was found; of `answers` all but what they `had`, which is in `held`."""
    excluded: Counter[str] = Counter()
    addresses = {each.relay: each.address for each in relays}
    unproven: list[tuple[str, str, Unproven]] = []
    answered: set[int] = set()
    for answer in answers:
        excluded.update(answer.excluded)
        if not answer.unproven:
            answered.add(answer.relay)
        name = addresses.get(answer.relay, "")
        unproven += [(name, answer.question, each) for each in answer.unproven]
    missed_by_relay = Counter(relay for miss in misses for relay in miss.relays)
    rules = Counter(miss.rule for miss in misses)
    ages = Counter(age_of(miss.created_at, now_s) for miss in misses)
    return AuditReport(
        Recall(held.total, len(misses)),
        tuple((each, Recall(held.by_relay.get(each.relay, 0), missed_by_relay[each.relay])) for each in relays),
        tuple((rule.value, Recall(held.by_rule[rule.value], rules[rule])) for rule in ASKED_RULES),
        tuple((name, Recall(held.by_age[name], ages[name])) for name in (*(name for _, name in AGES), OLDER)),
        tuple(misses), dict(excluded), tuple(unproven), late,
        is_proven=any(not each.problem and each.relay in answered for each in relays),
    )  # fmt: skip
