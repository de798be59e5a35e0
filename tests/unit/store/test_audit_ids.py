"""Ids of an audit: each event counts once, and they need little memory however many there are."""

import apsw
import pytest

from pipeline.store import audit_ids
from pipeline.store.audit_ids import AuditIds

A, B = b"a" * 32, b"b" * 32


def number(value: int) -> bytes:
    return value.to_bytes(32)


def test_event_counts_once_with_its_first_rule_and_for_each_relay() -> None:
    ids = AuditIds()
    ids.put_returned(1, "user", [(5, A), (6, B)])
    ids.put_returned(2, "mention", [(5, A)])
    ids.put_returned(1, "mention", [(5, A)])
    assert sorted(ids.returned()) == [(5, "user"), (6, "user")]
    assert ids.count_by_relay() == {1: 2, 2: 1}


def test_what_is_held_is_found_by_author() -> None:
    ids = AuditIds()
    ids.put_ours([(A, 5, number(1)), (A, 4, number(2)), (B, 3, number(3)), (A, 5, number(1))])
    assert ids.ours([A, number(9)]) == {A: [(4, number(2)), (5, number(1))]}


def test_two_audits_share_nothing() -> None:
    one, other = AuditIds(), AuditIds()
    one.put_returned(1, "user", [(5, A)])
    assert list(other.returned()) == []


def test_memory_does_not_grow_with_the_number_of_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take 10 MB here, where the cache has 1."""
    monkeypatch.setattr(audit_ids, "_CACHE_KIB", 1 << 10)
    before = apsw.memory_used()
    ids = AuditIds()
    for first in range(0, 60_000, 1_000):
        some = range(first, first + 1_000)
        ids.put_returned(1, "user", [(each, number(each)) for each in some])
        ids.put_ours((A, each, number(each)) for each in some)
    assert apsw.memory_used() - before < 3 << 20
    assert sum(1 for _ in ids.returned()) == 60_000
