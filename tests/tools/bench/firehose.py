"""`firehose`: what 200,000 wanted authors cost: planning, memory, and the match of all that a relay sends."""

import random
import time
import tracemalloc
from collections.abc import Callable

from pipeline.crawl.sync.planner import Planner
from pipeline.nostr.event import event_from_json
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import EventMessage, parse_relay_message
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.session import Session
from pipeline.rules.relevance import Relevance
from pipeline.store.wanted_authors import Change, WantedChanges
from tests.tools.bench import events
from tests.tools.bench.report import Figure, Limit, PartReport, cost

AUTHORS = 200_000
USERS = 2_000
_EVENTS = 10_000


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `firehose`."""
    rng = random.Random(events.SEED)
    keys = [rng.randbytes(32) for _ in range(AUTHORS)]
    everybody = _changes(1, keys, keys[:USERS])
    planner, relevance, kept = Planner(), Relevance(), Relevance()
    taken = _cpu_s(lambda: planner.apply(everybody))
    planned = _cpu_s(planner.plan)
    planner.apply(_changes(2, [rng.randbytes(32)], []))
    again = _cpu_s(planner.plan)
    relevance.follow(planner.wanted(planner.plan(), has_ceased=False))
    kept.apply(everybody)
    count = _EVENTS // 2 if quick else _EVENTS
    lines = events.lines(events.blocks(count), count)
    strangers = [event_from_json(line) for line in lines]
    matched = _cpu_s(lambda: [relevance.rule(event) for event in strangers]) / count
    matched_by_set = _cpu_s(lambda: [kept.rule(event) for event in strangers]) / count
    planner.apply(_changes(3, [event.pubkey for event in strangers], []))
    relevance.follow(planner.wanted(planner.plan(), has_ceased=False))
    found = _cpu_s(lambda: [relevance.rule(event) for event in strangers]) / count
    figures = (
        Figure("taking up 200,000 authors", taken, "s CPU"),
        Figure("planning their queries", planned, "s CPU", Limit("1 s", 1.0)),
        Figure("planning again for one more", again, "s CPU", Limit("1 s", 1.0)),
        Figure("queries by author that the firehose spares a relay", len(planner.plan().live), ""),
        Figure("plan, in memory", _bytes(lambda: _planned(everybody)) / 1e6, "MB"),
        Figure("sets of the saver, in memory", _bytes(lambda: _relevant(everybody)) / 1e6, "MB"),
        cost("finding that nobody wants an event", matched, limit),
        cost("finding the same in the saver", matched_by_set, limit),
        cost("finding that its author is wanted", found, limit),
        cost("reading and dropping an unwanted event", _read_s(lines) + matched, limit, "frame, session, match"),
    )
    note = f"{count:,} notes of {events.EVENT_BYTES} bytes, two tags each"
    return PartReport("firehose", figures, (note,))


def _changes(generation: int, authors: list[bytes], users: list[bytes]) -> WantedChanges:
    def wanted(keys: list[bytes]) -> tuple[Change, ...]:
        return tuple(Change(key, True, 0, generation) for key in keys)

    return WantedChanges(generation, wanted(authors), wanted(users))


def _read_s(lines: list[bytes]) -> float:
    """Processor seconds from frame to counted event, on a subscription to everything."""
    frames = [b'["EVENT","L1",' + line + b"]" for line in lines]
    session = Session(LearnedLimits(RelayLimits()))
    session.open_live("0", [Filter(limit=0)], 0.0)

    def read() -> None:
        for frame in frames:
            message = parse_relay_message(frame)
            assert isinstance(message, EventMessage)
            session.note_event(message.subscription, message.event, 0.0)

    return _cpu_s(read) / len(frames)


def _planned(changes: WantedChanges) -> object:
    planner = Planner()
    planner.apply(changes)
    return planner, planner.plan()


def _relevant(changes: WantedChanges) -> object:
    relevance = Relevance()
    relevance.apply(changes)
    return relevance


def _bytes(make: Callable[[], object]) -> int:
    """What is left allocated by `make` while its result lives."""
    tracemalloc.start()
    try:
        kept = make()
        size, _ = tracemalloc.get_traced_memory()
        assert kept is not None
        return size
    finally:
        tracemalloc.stop()


def _cpu_s(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began
