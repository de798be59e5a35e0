"""What `event-service replay` prints in the end, as text and as a JSON value."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.commands.output import number_of
from pipeline.nostr.kinds import is_regular
from pipeline.process.liveness import utc
from pipeline.store.replays import Fetch, Replay, ReplayScope

_MAX_SHOWN: Final = 20


def lines(
    one: Replay, missing: Sequence[Fetch], pending: int, relays_asked: int, problems: Mapping[str, str]
) -> list[str]:
    """Return the report for a person; `problems`: why relays were not asked for everything, by address."""
    since, until = utc(one.scope.since // 1000), utc(one.scope.until // 1000)
    found = [
        f"replay {one.job} of what sink {one.scope.sink} had from {since} to {until}",
        f"{number_of(one.queued, 'event')} queued: {one.from_store:,} kept, {one.from_relays:,} fetched again",
        f"{one.delivered:,} delivered, {one.refused:,} refused, {one.retracted:,} retracted, {pending:,} pending",
    ]
    if one.other_rule:
        found.append(f"{number_of(one.other_rule, 'event')} fetched, which the rules of today do not match")
    if one.missing:
        old = sum(not is_regular(each.kind) for each in missing)
        found.append(
            f"{number_of(one.missing, 'event')} found at none of {number_of(relays_asked, 'relay')}"
            f" ({old:,} of kinds that relays do not keep for good)"
        )
        found += [
            f"  {each.event_id.hex()} kind {each.kind}, dated {_date(each.created_at)}" for each in missing[:_MAX_SHOWN]
        ]
        if one.missing > _MAX_SHOWN:
            found.append(f"  and {one.missing - _MAX_SHOWN:,} more, which --json prints")
    return found + [f"{address}: not asked for everything: {problem}" for address, problem in problems.items()]


def value(one: Replay, missing: Sequence[Fetch], pending: int, problems: Mapping[str, str]) -> dict[str, Any]:
    """Return the same as a JSON value, with every missing event."""
    return scope_value(one.scope) | {
        "replay": one.job, "total": one.total, "kept": one.from_store, "fetched": one.from_relays,
        "other_rule": one.other_rule, "delivered": one.delivered, "refused": one.refused, "retracted": one.retracted,
        "pending": pending, "missing": one.missing,
        "missing_events": [
            {"id": each.event_id.hex(), "kind": each.kind, "created_at": each.created_at} for each in missing
        ],
        "problems": problems,
    }  # fmt: skip


def scope_value(scope: ReplayScope) -> dict[str, Any]:
    """Return what a replay is about as a JSON value."""
    return {
        "sink": scope.sink, "since": utc(scope.since // 1000), "until": utc(scope.until // 1000),
        "authors": [key.hex() for key in scope.authors], "rules": list(scope.rules),
    }  # fmt: skip


def _date(seconds: int) -> str:
    try:
        return utc(seconds)
    except (OverflowError, OSError, ValueError):
        return f"{seconds} s after 1970"
