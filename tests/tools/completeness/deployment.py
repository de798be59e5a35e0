"""A deploy makes all relays absent together: what came to them meanwhile is had, and only so many are swept at once."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import time
from typing import Any

from pipeline.crawl.sync.absences import MAX_PLACES
from pipeline.relay.subscription import PAGE_PREFIX
from tests.fakes.behaviour import Behaviour
from tests.fakes.net import pause
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Answered, Journal, Req
from tests.tools.completeness.behaviours import HONEST_CASE, Case
from tests.tools.completeness.run import Peer, Row, Run
from tests.tools.completeness.world import World

RELAYS = 80
"""More than twice as many as are swept at once by the one crawler."""
_SETTINGS = {"EVENTS_RESWEEP_EVERY": "6h", "EVENTS_CRAWLERS": "1"}
# Without a bound nearly all of the relays would have an open page at once.
_BEHAVIOUR = Behaviour(answer_delay_s=0.4)
_STORED, _LATE = 20, 10
# Tails go back by a quarter of an hour, and what is looked at for its form by a second or two.
_TAIL_S, _MOMENT_S = 1200, 10
_QUIET_S = 5.0


def run(seed: int, timeout_s: float, *, keep: Path | None = None) -> list[Row]:
    """Play it; one row stands for all relays, and its time counts from the second start."""
    world = World.make(seed)
    case = Case(_BEHAVIOUR)
    peers = [_peer(world, f"deploy-{number}", case) for number in range(RELAYS)]
    lists = Peer("(contact lists)", HONEST_CASE, ScriptedRelay(events=world.contact_lists))
    with tempfile.TemporaryDirectory(prefix="event-service-completeness-") as scratch:
        service = Run(keep or Path(scratch), world, [lists, *peers], _SETTINGS)
        with service.started():
            service.wait_complete(timeout_s)
            _wait_quiet(peers)
            service.service.stop()
            for peer in peers:
                late = world.stored(_LATE)
                peer.relay.hold(late)
                peer.offer(world, late)
                peer.done_at = None
            began = time()
            marks = [len(peer.relay.journal.of(Req)) for peer in peers]
            service.service.start()
            service.wait_complete(timeout_s)
            _wait_quiet(peers)
            rows = service.rows(began)[1:]
            journals = [(peer.relay.journal, mark) for peer, mark in zip(peers, marks, strict=True)]
            return [_together(rows, most_at_once(journals, began))]


def _peer(world: World, name: str, case: Case) -> Peer:
    stored = world.stored(_STORED)
    peer = Peer(name, case, ScriptedRelay(case.behaviour, events=stored))
    peer.offer(world, stored)
    return peer


def _wait_quiet(peers: Sequence[Peer]) -> None:
    """Return once no relay was asked for anything for a while."""
    count, before = -1, -2
    while count != before:
        before = count
        pause(_QUIET_S)
        count = sum(len(peer.relay.journal.of(Req)) for peer in peers)


def most_at_once(journals: Sequence[tuple[Journal, int]], wall: float) -> int:
    """Return how many relays had an open page of the days before `wall` (Unix seconds) at once.

    Each with the number of requests that came before.
    """
    changes = sorted(change for journal, mark in journals for change in _changes(journal, mark, wall))
    most = count = 0
    for _, change in changes:
        count += change
        most = max(most, count)
    return most


def _changes(journal: Journal, mark: int, wall: float) -> Iterator[tuple[float, int]]:
    """When the number of such pages at one relay rises from none, and falls to none (monotonic seconds)."""
    pages = [req for req in journal.of(Req)[mark:] if _goes_back(req, wall)]
    answers = {(each.connection, each.subscription): each.at for each in journal.of(Answered)}
    ends = [(each.at, answers[each.connection, each.subscription]) for each in pages if _key(each) in answers]
    until = 0.0
    for begun, ended in sorted(ends):
        if begun > until:
            if until:
                yield until, -1
            yield begun, 1
        until = max(until, ended)
    if until:
        yield until, -1


def _key(req: Req) -> tuple[int, str]:
    return req.connection, req.subscription


def _goes_back(req: Req, wall: float) -> bool:
    """Whether it is a page of a sweep of the last days; gift wraps are asked for by themselves and at once."""
    return req.subscription.startswith(PAGE_PREFIX) and any(_spans_days(each, wall) for each in req.filters)


def _spans_days(one: Mapping[str, Any], wall: float) -> bool:
    since, until = one.get("since"), one.get("until", wall)
    is_long = since is not None and since < wall - _TAIL_S and until - since > _MOMENT_S
    return is_long and "ids" not in one and one.get("kinds") != [1059]


def _together(rows: Sequence[Row], at_once: int) -> Row:
    seconds = [row.seconds for row in rows]
    return Row(
        f"deploy: {len(rows)} relays",
        sum(row.wanted for row in rows),
        sum(row.got for row in rows),
        sum(row.beyond for row in rows),
        {},
        sum(row.pages for row in rows),
        sum(row.connections for row in rows),
        None if None in seconds else max(each for each in seconds if each is not None),
        cannot=False,
        loses=False,
        fault=_fault(at_once),
    )


def _fault(at_once: int) -> str:
    if not at_once:
        return "no relay was swept"
    return f"{at_once} relays were swept at once" if at_once > MAX_PLACES else ""
