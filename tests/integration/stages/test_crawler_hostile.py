"""One crawler among hostile relays of every kind, all at once, and addresses that must never be dialled."""

import itertools
import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic, time

import pytest

from pipeline.crawl import connection
from pipeline.crawl.sync import costs
from pipeline.process.rate import Rate
from pipeline.relay import dial as dial_module
from pipeline.store import relay_mentions, relay_records
from stages import crawler
from tests.factories.events import authors, forge_content, forge_signature
from tests.fakes.procs import process
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Req
from tests.fakes.tcp import drip_headers, flood_headers, hang_up, say_garbage, say_nothing
from tests.integration.relay.peers import TEXT, Peer, accept_websocket, frame, read_head
from tests.integration.stages.support import World, wait_until
from tests.integration.stages.test_crawler import crawling, open_lives, profiles, quick, wait_arrived, wait_live

__all__ = ["quick"]

CONTINUATION = 0
MALLORY = authors(71, 1)[0]
NOW = int(time())
MAX_GROWTH_BYTES = 200 << 20
Script = Callable[[socket.socket, threading.Event], None]


def repeat(*frames: bytes, first: bytes = b"") -> Script:
    """A websocket on which these come over and over, as fast as they are read."""
    data = b"".join(frames)
    block = data * max(1, 60_000 // len(data))

    def play(conn: socket.socket, over: threading.Event) -> None:
        accept_websocket(conn, then=first)
        while not over.is_set():
            conn.sendall(block)

    return play


def events(*frames: str, subscription: str = "P1") -> Script:
    return repeat(*(frame(TEXT, f'["EVENT","{subscription}",{each}]'.encode()) for each in frames))


def huge_error(conn: socket.socket, over: threading.Event) -> None:
    """An error page without an end."""
    read_head(conn)
    conn.sendall(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 10000000000\r\n\r\n")
    while not over.is_set():
        conn.sendall(b"x" * 60_000)


def announces_ten_gigabytes(conn: socket.socket, over: threading.Event) -> None:
    accept_websocket(conn, then=b"\x81\x7f" + (10 << 30).to_bytes(8))
    while not over.is_set():
        conn.sendall(b"x" * 60_000)


def byte_by_byte(conn: socket.socket, over: threading.Event) -> None:
    accept_websocket(conn, then=b"\x81\x7e\xff\x00")
    while not over.wait(0.2):
        conn.sendall(b"x")


def half_open(conn: socket.socket, over: threading.Event) -> None:
    """A websocket on which nothing is ever said, not even to pings."""
    accept_websocket(conn)
    over.wait(60)


FORGED = [forge(event).raw for event in profiles(10, first=700) for forge in (forge_content, forge_signature)]
UNASKED = [MALLORY.sign(str(n), kind=1, created_at=NOW).raw for n in range(20)]
HOSTILE: dict[str, Script] = {
    "endless message": repeat(frame(CONTINUATION, b"x" * 30_000, fin=False), first=frame(TEXT, b"x", fin=False)),
    "ten gigabytes": announces_ten_gigabytes,
    "endless headers": flood_headers,
    "dripped headers": drip_headers,
    "huge error": huge_error,
    "byte by byte": byte_by_byte,
    "half open": half_open,
    "silent": say_nothing,
    "no http": say_garbage,
    "reset": hang_up,
    "eoses": repeat(frame(TEXT, b'["EOSE","P1"]')),
    "forged": events(*FORGED),
    "unasked": events(*UNASKED),
    "for nobody": events(*UNASKED, subscription="X"),
    "garbage": repeat(frame(TEXT, b"{")),
}


def test_hostile_relays_of_every_kind_cost_little_and_harm_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is counted by what was wrong with it; the true events come, though copies of them were forged."""
    monkeypatch.setattr(connection, "PING_AFTER_S", 0.5)
    monkeypatch.setattr(connection, "GIVE_UP_AFTER_S", 1.5)
    policy = dial_module.DialPolicy(allow_private=True, timeout_s=2.0)
    monkeypatch.setattr(crawler, "DialPolicy", lambda **_: policy)
    stored, live = profiles(10), profiles(20, first=400)
    with ExitStack() as stack:
        peers = {name: stack.enter_context(Peer(script)) for name, script in HOSTILE.items()}
        tls = stack.enter_context(Peer(say_nothing))
        honest = stack.enter_context(ScriptedRelay(events=stored))
        urls = [peer.address.url for peer in peers.values()] + [f"wss://localhost:{tls.port}"]
        threads, memory = threading.active_count(), _memory()
        running = stack.enter_context(crawling(world, honest.url, *urls, EVENTS_MAX_RELAYS_PER_HOST="50"))
        wait_live(honest)
        for event in live:
            honest.publish(event)
        wait_arrived(world, [*stored, *live], 60)

        def wait_counted(name: str, **labels: str) -> None:
            wait_until(lambda: running.metric(name, **labels) > 0, f"{name} {labels} counted", 60)

        for reason in ("timeout", "handshake", "too_large"):
            wait_counted("event_service_dial_failures_total", reason=reason)
        for name, reason in (("endless message", "too_large"), ("ten gigabytes", "too_large"), ("half open", "error")):
            url = peers[name].address.url
            wait_counted("relay_connection_disconnections_counter_total", address=url, reason=reason)
        for kind in ("unasked-event", "message-json"):
            wait_counted("event_service_stage_errors_total", stage="crawler", kind=kind)
        for reason in ("invalid-hash", "invalid-signature", "unwanted"):
            wait_counted("event_service_stage_discarded_total", stage="crawler", reason=reason)
        assert _memory() - memory < MAX_GROWTH_BYTES
        # A thread for each relay, those of the peers, and what a stage has anyway.
        assert threading.active_count() - threads < 4 * len(urls) + 20
        true_ones = profiles(10, first=700)
        honest.publish(*true_ones)
        wait_arrived(world, true_ones, 60)


def _memory() -> int:
    found = process(os.getpid())
    assert found is not None
    return found.resident_bytes


def test_no_address_outside_the_public_internet_is_ever_dialled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By literal, odd literal, name, or a name that changes between two look-ups: a listener hears nothing."""
    with Peer(half_open) as silent, Peer(half_open, host="127.0.0.3") as other:
        answers = itertools.cycle(["127.0.0.1", "127.0.0.3", "10.0.0.1", "::ffff:127.0.0.1", "169.254.1.1"])
        looked_up: list[str] = []

        def resolver(host: str, port: int) -> list[tuple[str, int]]:
            looked_up.append(host)
            return [(next(answers), port)]

        policy = dial_module.DialPolicy(allow_private=False, timeout_s=2.0, resolver=resolver)
        monkeypatch.setattr(crawler, "DialPolicy", lambda **_: policy)
        literals = (
            "127.0.0.1", "127.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]", "localhost", "0.0.0.0", "127.0.0.3",
        )  # fmt: skip
        names = [f"rebind{n}.example.com" for n in range(5)]
        urls = [f"ws://{host}:{port}" for host in (*literals, *names) for port in (silent.port, other.port)]
        with world.database.write() as tx:
            for url in urls:
                # As written, however odd: whatever came into the table is judged when it is dialled.
                relay_mentions.record_mention(tx, url, source="test", author=1, is_user=True, now=1)
        settings = {
            "EVENTS_ALLOW_PRIVATE_RELAYS": "false", "EVENTS_DISCOVER_RELAYS": "true",
            "EVENTS_MAX_RELAYS_PER_HOST": "50",
        }  # fmt: skip
        with crawling(world, **settings) as running:
            private = {"reason": "private"}
            wait_until(lambda: running.metric("event_service_dial_failures_total", **private) >= len(names))
            wait_until(lambda: {*names} <= {*looked_up})
        assert (silent.connections, other.connections) == (0, 0)


def endless_forgeries(conn: socket.socket, over: threading.Event) -> None:
    """Answers each page with events whose signature is wrong, as fast as they are read; none is the same as another."""
    accept_websocket(conn)
    genuine = MALLORY.sign("x", kind=0, created_at=NOW).raw
    first, last = genuine[: genuine.index('"id":"') + 6], genuine[genuine.index('"id":"') + 70 :]
    for number in itertools.count():
        if over.is_set():
            return
        ids = (f"{number:032x}{n:032x}" for n in range(500))
        conn.sendall(b"".join(frame(TEXT, f'["EVENT","P1",{first}{each}{last}]'.encode()) for each in ids))


def test_relay_that_forges_is_cut_off_and_left_alone_beside_an_honest_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "FORGERIES", budget := Rate(burst=300, per_minute=60))
    stored = profiles(10)
    with Peer(endless_forgeries) as forger, ScriptedRelay(events=stored) as honest:
        url = forger.address.url
        with crawling(world, honest.url, url) as running:
            labels = {"address": url, "reason": "forged"}
            wait_until(
                lambda: running.metric("relay_connection_disconnections_counter_total", **labels) == 1, "cut off"
            )
            wait_live(honest)
            for event in profiles(20, first=400):
                honest.publish(event)
                wait_arrived(world, [event])
            wait_arrived(world, stored)
            discarded = {"stage": "crawler", "reason": "invalid-hash"}
            wait_until(lambda: running.metric("event_service_stage_discarded_total", **discarded) > budget.burst)
            forged = running.metric("event_service_stage_discarded_total", **discarded)
            # What was under way when it was cut off is verified all the same.
            assert forged < budget.burst + 1_500
            # One for its document.
            assert forger.connections <= 2
    (state, error, failures, wait_ms, forged_at), *_ = world.query(
        "SELECT state, last_error, failures, next_dial_at - state_since, forged_at FROM relays WHERE address = ?", url
    )
    assert (state, error, failures) == ("disconnected", "too many events that are malformed or forged", 1)
    assert wait_ms > 400_000
    assert forged_at > 0
    with world.database.read() as tx:
        found = {each.address: each for each in relay_records.records(tx, everything=True, limit=10)}
    assert not found[honest.url].forged_at


def test_flood_of_strangers_is_paced_while_users_events_come_at_once(world: World) -> None:
    """Its live subscription for global kinds is closed; the relay stays connected, and `relays show` has both."""
    large = [MALLORY.sign(f"{n}", kind=0, created_at=NOW + n, size=100_000) for n in range(40)]
    alice = authors(72, 1)[0]
    world.register(alice.pubkey)
    began = monotonic()
    with ScriptedRelay() as flooding, ScriptedRelay() as honest:
        with crawling(world, honest.url, flooding.url, EVENTS_RELAY_BYTE_RATE="20000"):
            wait_live(flooding)
            wait_live(honest)
            flooding.publish(*large)
            wait_until(lambda: world.value("SELECT paced_at > 0 FROM relays WHERE address = ?", flooding.url) == 1)
            wait_until(lambda: not _global_lives(flooding), "no live subscription for global kinds")
            assert _global_lives(honest)
            notes = [alice.sign(f"{n}", kind=1, created_at=NOW) for n in range(10)]
            for event in notes:
                honest.publish(event)
                wait_arrived(world, [event])
        found = world.query("SELECT address, stranger_bytes FROM relays ORDER BY stranger_bytes")
    assert found[0] == (honest.url, 0)
    # What the burst, the grace and the time let through, and what was read already.
    most = 20_000 * (costs.BURST_S + costs.GRACE_S + monotonic() - began) + 1_000_000
    assert world.value("SELECT sum(length(payload)) FROM payloads") < most


def _global_lives(relay: ScriptedRelay) -> list[str]:
    """The open live subscriptions that ask for global kinds of everybody."""
    open_ids = open_lives(relay)
    newest = {req.subscription: req.filters for req in relay.journal.of(Req) if req.subscription in open_ids}
    return [
        name
        for name, filters in newest.items()
        if any("kinds" in each and "authors" not in each and "#p" not in each for each in filters)
    ]
