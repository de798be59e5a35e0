"""`stage server`: metrics, health and public-key information over HTTP, registrations over websockets."""

import asyncio
import contextlib
import functools
import logging
import os
import socket
from collections.abc import Iterator
from typing import Final

from websockets.asyncio.server import Server, serve

from pipeline.errors import CannotStart
from pipeline.process.logs import RateLimitedLogger
from pipeline.process.page_token import make_page_token
from pipeline.process.stage import StageContext
from pipeline.server.admission import admission_of
from pipeline.server.connection import Guard
from pipeline.server.errors import ErrorLog, library_logger
from pipeline.server.health import HealthCheck
from pipeline.server.http import PageAccess, PublicKeys, Web
from pipeline.server.limits import RejectReason, RequestRates, ServerLimits, limits_of
from pipeline.server.page.response import StatusPage
from pipeline.server.registrations import Record, Registrations, alone, refuse
from pipeline.server.scrape import Scrape
from pipeline.server.session import Sessions
from pipeline.server.worker import DatabaseThread
from pipeline.settings.choices import HostRole
from pipeline.settings.values import HostPort
from pipeline.store import shares
from pipeline.store.database import Database
from pipeline.store.schema import open_database
from pipeline.store.user_acts import ActRules
from pipeline.version import read_version

STAGE: Final = "server"
_BEAT_S: Final = 1.0
# For work that runs when the stage is stopped; what is left is cut off.
_STOP_S: Final = 5.0
# `["EVENT",…]` around the largest event.
_ENVELOPE_BYTES: Final = 64
# Connections that the kernel holds until they are accepted: of one more it drops the first packet, a second's wait.
_BACKLOG: Final = 1024
# Connections accepted before existing ones are read again, so that one with a request does not count as silent.
_ACCEPTED_AT_ONCE: Final = 16
# One message waits while another is worked on; more would only take memory.
_QUEUED_FRAMES: Final = 1
_WRITE_BUFFER_BYTES: Final = 64 << 10


def run(ctx: StageContext, limits: ServerLimits | None = None) -> None:
    """Serve until stopped, within the bounds of the settings or `limits`.

    Raises `CannotStart` when the listen address or the database cannot be used.
    """
    # asyncio warns of each write to a lost connection, so that clients that hang up cause lines.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    with listener(ctx.config.listen_address) as sock, _recorder(ctx) as record, _threads(ctx) as threads:
        asyncio.run(_serve(ctx, limits or limits_of(ctx.config), sock, threads, record))


@contextlib.contextmanager
def listener(address: HostPort) -> Iterator[socket.socket]:
    """A socket that listens on `address`, without a host on every local one. Raises `CannotStart`."""
    try:
        sock = _listen(address)
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise CannotStart(f"cannot listen on {address}: {reason}") from error
    with sock:
        yield sock


def _listen(address: HostPort) -> socket.socket:
    # As in Go, both forms stand for every address of either family.
    if address.host in ("", "::") and socket.has_dualstack_ipv6():
        return socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
    found = socket.getaddrinfo(address.host or "0.0.0.0", address.port, type=socket.SOCK_STREAM)  # noqa: S104  # asked for
    # As Go does it: a name stands for one of its addresses, and for an IPv4 one if there is any.
    family, _, _, _, where = min(found, key=lambda each: each[0] != socket.AF_INET)
    return socket.create_server((str(where[0]), address.port), family=family)


class _Threads:
    """A thread per kind of work, so that a slow scrape or a busy writer delays no other work."""

    def __init__(self, ctx: StageContext) -> None:
        path, times = ctx.config.database_path, ctx.times()
        open_here = functools.partial(open_database, path, ctx.clock, ctx.on_locked, times)
        self.scrape = DatabaseThread("scrape", open_here)
        self.health = DatabaseThread("health", open_here)
        self.lookup = DatabaseThread("lookup", open_here)
        self.registration = DatabaseThread("registration", open_here)
        self.page = DatabaseThread("page", open_here)
        self.all = (self.registration, self.lookup, self.health, self.scrape, self.page)


@contextlib.contextmanager
def _threads(ctx: StageContext) -> Iterator[_Threads]:
    threads = _Threads(ctx)
    try:
        yield threads
    finally:
        for thread in threads.all:
            thread.close()


async def _serve(
    ctx: StageContext, limits: ServerLimits, sock: socket.socket, threads: _Threads, record: Record
) -> None:
    for thread in threads.all:
        await thread.start()
    await threads.registration.run(functools.partial(_set_bound, ctx.config.max_wanted_authors))
    log = RateLimitedLogger(ctx.log, ctx.clock)
    errors = ErrorLog(ctx.log, ctx.clock, ctx.metrics)

    def refuse(reason: RejectReason) -> None:
        ctx.metrics.stage_discarded.labels(STAGE, reason.value).inc()
        log.debug(reason.value, "client refused", reason=reason.value)

    guard = Guard(limits, ctx.clock, refuse, ctx.config.trusted_proxies, ctx.config.allowed_origins)
    registrations = Registrations(
        threads.registration,
        ctx.clock,
        ctx.metrics,
        log,
        admission=lambda: admission_of(ctx.settings),
        rules=_act_rules(ctx),
        record=record,
        on_change=lambda: ctx.bells.ring("crawler", "saver"),
    )
    health = HealthCheck(threads.health, lambda: ctx.settings, ctx.clock)
    web = Web(
        Scrape(threads.scrape, ctx.config, ctx.clock, ctx.metrics, log),
        health,
        PublicKeys(threads.lookup, ctx.clock, ctx.metrics),
        StatusPage(threads.page, health, lambda: ctx.settings, ctx.clock),
        PageAccess(lambda: ctx.settings.status_page, make_page_token(ctx.config.runtime_directory)),
        errors,
        RequestRates(limits, ctx.clock),
    )
    server = await serve(
        Sessions(registrations, limits, ctx.clock, refuse).serve,
        sock=sock,
        backlog=_ACCEPTED_AT_ONCE,
        process_request=web.process_request,
        create_connection=guard.connection_class(),
        logger=library_logger(errors),
        # A compressed message may unfold to a thousand times its size.
        compression=None,
        server_header=None,
        open_timeout=limits.request_s,
        ping_interval=limits.ping_s,
        ping_timeout=limits.ping_s,
        close_timeout=limits.close_s,
        max_size=ctx.config.max_event_bytes + _ENVELOPE_BYTES,
        max_queue=_QUEUED_FRAMES,
        write_limit=_WRITE_BUFFER_BYTES,
    )
    # The library's one setting is for both.
    sock.listen(_BACKLOG)
    version = read_version()
    ctx.metrics.version.labels(version.revision, version.time, version.runtime).set(1)
    ctx.log.info("listening", address=_shown(sock), revision=version.revision)
    try:
        await _beat_until_stopped(ctx)
    finally:
        await _close(server, guard)


@contextlib.contextmanager
def _recorder(ctx: StageContext) -> Iterator[Record]:
    """Yield what keeps registrations beside the database of this host."""
    match ctx.config.role:
        case HostRole.HOME:
            from pipeline.hub.registry import HubRegistry  # noqa: PLC0415  (its driver is there only with a hub)

            assert ctx.config.hub is not None, "checked by Config"
            registry = HubRegistry(ctx.config.hub, _act_rules(ctx), ctx.clock)
            try:
                yield registry.record
            finally:
                registry.close()
        case HostRole.CRAWLER:
            yield refuse
        case None:
            yield alone


def _act_rules(ctx: StageContext) -> ActRules:
    return ActRules(ctx.config.public_url, ctx.config.allow_private_relays)


def _set_bound(max_wanted_authors: int, database: Database) -> None:
    with database.write() as tx:
        shares.set_bound(tx, max_wanted_authors)


async def _beat_until_stopped(ctx: StageContext) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(ctx.stop.fileno(), stopped.set)
    try:
        while not stopped.is_set():
            ctx.heartbeat.beat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BEAT_S):
                    await stopped.wait()
    finally:
        loop.remove_reader(ctx.stop.fileno())


async def _close(server: Server, guard: Guard) -> None:
    """Close all websockets (1001), and abort those that take too long over it."""
    server.close()
    guard.close_idle()
    for grace_s in (_STOP_S, 1.0):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await server.wait_closed()
                return
        guard.abort_all()


def _shown(sock: socket.socket) -> str:
    name = sock.getsockname()
    return str(HostPort(str(name[0]), int(name[1])))
