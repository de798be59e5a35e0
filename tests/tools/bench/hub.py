"""`hub`, `hub-plan`: what several hosts cost beside one: hand-over, home's taking, distance, latency, the plan."""

import statistics
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, time

import psycopg

from pipeline.nostr.event import event_from_json
from pipeline.process.clock import SystemClock
from pipeline.store import inbox, users, wanted_authors
from pipeline.store.inbox import Arrival
from pipeline.store.schema import open_database
from tests.fakes.net import pause
from tests.fakes.postgres import Hub
from tests.tools.bench import events
from tests.tools.bench.hub_hosts import BenchHost, cpu_s, far_away, host, hub_of_bench, wait
from tests.tools.bench.intake import running_intake
from tests.tools.bench.report import Figure, Limit, PartReport, cost

_NO_POSTGRES = "PostgreSQL is not installed"
_FAR_S, _NEAR_S = 0.15, 0.05
_RATE = 50
_INTAKE_EVERY_S = 0.02
_SENT_UP_TO = "(SELECT coalesce(max(number), 0) FROM sent_parcels)"
_UNSENT = f"SELECT count(*) FROM parcels WHERE number > {_SENT_UP_TO}"
_SENT = f"SELECT coalesce(sum(events), 0) FROM parcels WHERE number <= {_SENT_UP_TO}"
_LEFT = "SELECT count(*) FROM inbox"


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `hub`."""
    count = 10_000 if quick else 40_000
    arrivals = _arrivals(3 * count)
    with (
        tempfile.TemporaryDirectory(prefix="event-service-bench-") as name,
        hub_of_bench() as hub,
        ExitStack() as stack,
    ):
        if hub is None:
            return PartReport("hub", (), invalid=_NO_POSTGRES)
        directory = Path(name)
        edge = stack.enter_context(host(directory, "near", hub.add_host("near")))
        home = stack.enter_context(host(directory, "home", hub.home))
        local = _local(directory, count)
        edge.append(arrivals[:count])
        handing, uplink_cpu_s = _hand_over(edge, count)
        taking = _take(home, count)
        url = stack.enter_context(far_away(hub.add_host("far"), _FAR_S))
        far = stack.enter_context(host(directory, "far", url))
        few = count // 4
        far.append(arrivals[count : count + few])
        at_distance, _ = _hand_over(far, few)
        url = stack.enter_context(far_away(hub.add_host("live"), _NEAR_S))
        live = stack.enter_context(host(directory, "live", url))
        latencies = _latencies(live, home, arrivals[-20 * _RATE :], count + few + 1)
    figures = (
        Figure("local intake", local, "/s"),
        Figure("hand-over", handing, "/s", Limit("local", local)),
        cost("  CPU, uplink", uplink_cpu_s, limit),
        Figure("taking at home", taking, "/s", Limit("local", local)),
        Figure(f"hand-over, {_FAR_S * 1000:.0f} ms round trip", at_distance, "/s", Limit("needed", 500.0)),
        Figure(f"inbox to inbox, {_NEAR_S * 1000:.0f} ms, median", statistics.median(latencies) * 1000, "ms"),
        Figure("  p99", statistics.quantiles(latencies, n=100)[-1] * 1000, "ms"),
    )
    notes = (
        "local intake: verified and appended, as a crawler of the home machine would",
        f"{count:,} events in batches of 200, each stage alone in a process of its own; {few:,} at a distance;"
        f" latency of {len(latencies):,} events at {_RATE}/s",
    )
    return PartReport("hub", figures, notes)


def run_plan(limit: float, *, quick: bool) -> PartReport:
    """The part `hub-plan`."""
    del limit
    authors = 100_000 if quick else 1_000_000
    with (
        tempfile.TemporaryDirectory(prefix="event-service-bench-") as name,
        hub_of_bench() as hub,
        ExitStack() as stack,
    ):
        if hub is None:
            return PartReport("hub-plan", (), invalid=_NO_POSTGRES)
        directory = Path(name)
        acting = _registration_s(hub, directory, stack)
        _publish(hub, authors)
        took_s, longest_s = _follow(hub, directory, stack)
    figures = (
        Figure("registration acts on two hosts", acting, "s", Limit("promised", 2.0)),
        Figure(f"plan of {authors:,} authors at a new host", took_s, "s", Limit("promised", 30.0)),
        Figure("  its intake waited at most", longest_s * 1000, "ms", Limit("promised", 100.0)),
    )
    return PartReport("hub-plan", figures, ("intake: an event each 20 ms, of which each commit is timed",))


def _arrivals(count: int) -> list[Arrival]:
    found = [event_from_json(line) for line in events.lines(events.blocks(count), count)]
    now = round(time() * 1000)
    return [Arrival(each.id, each.to_json(), 1, now, each.created_at) for each in found]


def _local(directory: Path, count: int) -> float:
    """Return how many events a second an ingester verifies and appends."""
    parsed = [event_from_json(line) for line in events.lines(events.blocks(count), count)]
    folder = directory / "local"
    folder.mkdir()
    with running_intake(folder) as fed:
        return fed.feed(parsed).per_second


def _hand_over(edge: BenchHost, count: int) -> tuple[float, float]:
    """Return events a second from the first parcel that was sent, and the uplink's processor seconds for an event."""
    with edge.running("uplink") as pid:
        wait(lambda: edge.value(_SENT) > 0, "nothing is sent")
        before, began, cpu_began = edge.value(_SENT), monotonic(), cpu_s(pid)
        wait(lambda: not edge.value(_LEFT) and not edge.value(_UNSENT), "not all is sent")
        took_s, used_s = monotonic() - began, cpu_s(pid) - cpu_began
    return (count - before) / took_s, used_s / (count - before)


def _take(home: BenchHost, count: int) -> float:
    with home.running("hub"):
        wait(lambda: home.value(_LEFT) > 0, "nothing is taken")
        before, began = home.value(_LEFT), monotonic()
        wait(lambda: home.value(_LEFT) >= count, "not all is taken")
        return (count - before) / (monotonic() - began)


def _latencies(edge: BenchHost, home: BenchHost, arrivals: Sequence[Arrival], there: int) -> list[float]:
    """Return for each event the seconds from the commit in one inbox to that in the other.

    `there`: what home has once it has the first of them, and all that was handed over before.
    """
    appended: dict[bytes, float] = {}
    taken: dict[bytes, float] = {}
    with edge.running("uplink"), home.running("hub"):
        edge.append(arrivals[:1])
        wait(lambda: home.value(_LEFT) == there, "the first event does not come")
        with home.database.read() as tx:
            last = inbox.newest(tx)
        at = monotonic()
        left = list(arrivals[1:])
        deadline = at + len(left) / _RATE + 60.0
        while len(taken) < len(arrivals) - 1 and monotonic() < deadline:
            if left and monotonic() >= at:
                each = left.pop()
                edge.append([each])
                appended[each.event_id] = monotonic()
                at += 1 / _RATE
            with home.database.read() as tx:
                rows = tx.execute("SELECT seq, event_id FROM inbox WHERE seq > ? ORDER BY seq", (last,)).fetchall()
            for seq, event_id in rows:
                last = int(str(seq))
                assert isinstance(event_id, bytes)
                taken[event_id] = monotonic()
            pause(0.002)
    return [taken[each] - appended[each] for each in taken.keys() & appended.keys()]


def _publish(hub: Hub, authors: int) -> None:
    """Let the hub have a plan of so many authors."""
    with psycopg.connect(hub.owner) as owner:
        owner.execute(
            "INSERT INTO hub.plan_authors (subject, public_key, is_wanted, since, generation, tier)"
            " SELECT 0, sha256(number::text::bytea), true, 0, 1000, 0 FROM generate_series(1, %s) AS n (number)",
            (authors,),
        )
        owner.execute("UPDATE hub.plan SET generation = 1000")


def _follow(hub: Hub, directory: Path, stack: ExitStack) -> tuple[float, float]:
    """Return after how long a new host follows the plan, and the longest commit of its intake meanwhile."""
    edge = stack.enter_context(host(directory, "new", hub.add_host("new")))
    arrivals = _arrivals(10_000)
    is_over = threading.Event()
    longest_s = 0.0

    def accept() -> None:
        nonlocal longest_s
        with open_database(edge.directory / "events.db", SystemClock()) as database:
            while arrivals and not is_over.wait(_INTAKE_EVERY_S):
                began = monotonic()
                with database.write() as tx:
                    inbox.append(tx, [arrivals.pop()])
                longest_s = max(longest_s, monotonic() - began)

    thread = threading.Thread(target=accept)
    with edge.running("uplink"):
        began = monotonic()
        thread.start()
        try:
            wait(lambda: _generation(edge) >= 1_000, "the plan does not come", step_s=0.1)
            took_s = monotonic() - began
        finally:
            is_over.set()
            thread.join()
    return took_s, longest_s


def _generation(edge: BenchHost) -> int:
    with edge.database.read() as tx:
        return wanted_authors.latest_generation(tx)


def _registration_s(hub: Hub, directory: Path, stack: ExitStack) -> float:
    """Return after how long a registration at home is part of the plan of two hosts that follow it."""
    home = stack.enter_context(host(directory, "home", hub.home))
    edges = [stack.enter_context(host(directory, name, hub.add_host(name))) for name in ("one", "two")]
    people = events.people()

    def register(number: int) -> int:
        with home.database.write() as tx:
            users.register(tx, bytes.fromhex(people[number].pubkey), round(time() * 1000))
        return _generation(home)

    with home.running("hub"), edges[0].running("uplink"), edges[1].running("uplink"):
        first = register(0)
        wait(lambda: all(_generation(edge) >= first for edge in edges), "no plan comes")
        began = monotonic()
        latest = register(1)
        wait(lambda: all(_generation(edge) >= latest for edge in edges), "the registration does not come")
        return monotonic() - began
