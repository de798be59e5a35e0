"""The audit of one relay: comparisons are believed only as far as pages confirm them, refusals end it."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pipeline.audit import relay_audit
from pipeline.audit.client import AuditPage, RelayClient
from pipeline.audit.findings import Answer, Suspect
from pipeline.audit.judge import CrawlReach, Judge
from pipeline.audit.relay_audit import MAX_REFUSED, NOT_RETURNED, RelayAudit, Span
from pipeline.nostr.event import Event, public_key, sign
from pipeline.nostr.filter import Filter
from pipeline.nostr.negentropy import ItemSet, Reconciliation
from pipeline.process.clock import ManualClock
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import RelayRefusal
from pipeline.rules.acceptance import EventLimits
from pipeline.store.audits import AuditSubject
from pipeline.store.relay_records import RelayRecord
from pipeline.store.schema import open_database
from tests.support.stored_events import StoredEvents

CLOCK = ManualClock()
NOW = CLOCK.now_ms() // 1000
SECRET = b"\1" * 32
BOB = AuditSubject(public_key(SECRET), 0, is_user=False)
SPAN = Span(NOW - 10_000, NOW)
RECORD = cast("RelayRecord", SimpleNamespace(relay=7, crawled_since=0))


def note(number: int) -> Event:
    return sign(SECRET, created_at=NOW - 100 - number, kind=1, tags=[], content=f"{number}")


class Relay:
    """A relay without sockets: `named` is what its comparisons name, None if it compares no sets."""

    def __init__(self, events: Sequence[Event], named: Iterable[Event] | None = None) -> None:
        self.limits = RelayLimits()
        self.stored = StoredEvents(random.Random(1), list(events))
        self.named = None if named is None else [each.id for each in named]
        self.refusal: RelayRefusal | None = None
        self.pages: list[Filter] = []

    def page(self, query: Filter) -> AuditPage:
        self.pages.append(query)
        if self.refusal is not None:
            return AuditPage(refusal=self.refusal, detail="no")
        found = self.stored.page(query)
        return AuditPage((query,), len(found), found, bytes=sum(len(each.to_json()) for each in found))

    def compare(self, _query: Filter, items: ItemSet) -> Reconciliation | None:
        if self.named is None:
            return None
        ours = set(items.ids(0, len(items)))
        found = Reconciliation(items)
        found.need, found.have = set(self.named) - ours, ours - set(self.named)
        return found


class Taken:
    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.missing: list[Suspect] = []

    def __call__(self, answer: Answer, missing: Sequence[Suspect]) -> None:
        self.answers.append(answer)
        self.missing += missing


def audit(folder: Path, relay: Relay, subjects: Sequence[AuditSubject] = (BOB,)) -> tuple[str, Taken]:
    taken = Taken()
    with open_database(folder / "events.db", CLOCK) as database:
        judge = Judge(
            database, EventLimits(10_000, 100), CrawlReach(100_000, 100_000), CLOCK, suppresses_retracted=False
        )
        one = RelayAudit(RECORD, cast("RelayClient", relay), judge, SPAN, taken)
        return one.run(subjects, frozenset(), lambda _: {}), taken


def test_comparison_names_what_is_fetched_by_id(tmp_path: Path) -> None:
    events = [note(n) for n in range(250)]
    relay = Relay(events, events)
    problem, taken = audit(tmp_path, relay)
    assert problem == ""
    assert {each.event_id for each in taken.missing} == {each.id for each in events}
    assert [each.by_ids for each in taken.answers] == [True]
    assert [len(each.ids) for each in relay.pages if each.ids is not None] == [100, 100, 50]


def test_comparison_that_leaves_out_what_pages_have_is_not_believed(tmp_path: Path) -> None:
    events = [note(n) for n in range(20)]
    _, taken = audit(tmp_path, Relay(events, events[1:]))
    assert {each.event_id for each in taken.missing} == {each.id for each in events}
    assert [each.by_ids for each in taken.answers] == [False]


def test_ids_that_are_named_and_not_returned_are_no_misses(tmp_path: Path) -> None:
    _, taken = audit(tmp_path, Relay([], [note(1), note(2)]))
    assert not taken.missing
    assert [each.excluded.get(NOT_RETURNED, 0) for each in taken.answers] == [0, 2]


def test_relay_that_refuses_is_asked_a_few_times_only(tmp_path: Path) -> None:
    relay = Relay([])
    relay.refusal = RelayRefusal.ERROR
    others = [AuditSubject(bytes([n]) * 32, 0, is_user=False) for n in range(20)]
    problem, taken = audit(tmp_path, relay, others)
    assert problem == "error: no"
    assert len(relay.pages) == MAX_REFUSED
    assert all(each.unproven for each in taken.answers)


@pytest.mark.parametrize("compares", [True, False])
def test_event_with_a_wrong_signature_is_no_miss(tmp_path: Path, compares: bool) -> None:
    true, other = note(1), note(2)
    forged = Event(true.id, true.pubkey, true.created_at, true.kind, true.tags, true.content, other.sig)
    _, taken = audit(tmp_path, Relay([forged, other], [forged, other] if compares else None))
    assert [each.event_id for each in taken.missing] == [other.id]
    assert sum(each.excluded.get("invalid-signature", 0) for each in taken.answers) == 1


@pytest.mark.parametrize("compares", [True, False])
def test_answer_of_too_many_bytes_is_not_kept(tmp_path: Path, compares: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came is judged, and the rest unproven."""
    monkeypatch.setattr(relay_audit, "MAX_ANSWER_BYTES", 1_000)
    events = [note(n) for n in range(20)]
    relay = Relay(events, events if compares else None)
    problem, taken = audit(tmp_path, relay)
    assert problem == ""
    assert {each.event_id for each in taken.missing} == {each.id for each in events}
    assert [each.why for answer in taken.answers for each in answer.unproven] == ["more than 1,000 bytes"]
    assert len(relay.pages) == (3 if compares else 1)


@pytest.mark.parametrize("compares", [True, False])
def test_relay_that_seems_to_have_too_much_is_asked_no_more(
    tmp_path: Path, compares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_audit, "MAX_SUSPECT_BYTES", 1_000)
    monkeypatch.setattr(relay_audit, "MAX_COMPARED", 1)
    events = [note(n) for n in range(20)]
    others = [AuditSubject(bytes([n]) * 32, 0, is_user=False) for n in range(5)]
    problem, taken = audit(tmp_path, Relay(events, events if compares else None), [BOB, *others])
    assert problem == "more than 1,000 bytes seem to be missing"
    assert len(taken.missing) == len(events)
    assert [each.question for each in taken.answers] == [f"author:{BOB.key.hex()}"]
