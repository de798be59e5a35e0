"""The HTTP side of the server: which path gives which answer."""

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Final, Protocol

import apsw
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers, MultipleValuesError
from websockets.http11 import Request, Response

from pipeline.errors import EventServiceError
from pipeline.process.clock import Clock
from pipeline.process.exposition import CONTENT_TYPE, Health
from pipeline.process.metrics import Metrics
from pipeline.process.page_token import is_page_token
from pipeline.server.connection import LimitedConnection
from pipeline.server.errors import ErrorLog
from pipeline.server.health import HealthCheck
from pipeline.server.limits import Rejected, RejectReason, RequestRates
from pipeline.server.page.request import TOKEN_COOKIE, PageRequest, cookie_of, is_local, parse_request
from pipeline.server.scrape import Scrape
from pipeline.server.worker import DatabaseThread
from pipeline.settings.choices import StatusPageAccess
from pipeline.store import contacts
from pipeline.store.contacts import Counts
from pipeline.store.database import Database

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"
INVALID_PUBLIC_KEY: Final = b'{"statusCode":400,"message":"invalid hex public key"}'

_FORWARDING: Final = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
_WELCOME: Final = b"""event-service

websocket /                registrations: Nostr events of kind 6666
GET /metrics               Prometheus
GET /_health               "ok", or what is wrong
GET /public-keys/{hex}     followers and followees of a public key
GET / with a browser       the status page: event-service status --url
"""
_PUBLIC_KEYS: Final = "/public-keys/"
_CHECKS: Final = {"/_health": HealthCheck.check, "/_live": HealthCheck.live, "/_ready": HealthCheck.ready}
_HEX_KEY: Final = re.compile("[0-9a-fA-F]{64}")


class PublicKeys:
    """The answer to `/public-keys/{hex}`."""

    def __init__(self, thread: DatabaseThread, clock: Clock, metrics: Metrics) -> None:
        self._thread = thread
        self._clock = clock
        self._succeeded = metrics.handler("getPublicKeyInfo")
        self._failed = metrics.handler("getPublicKeyInfo", success=False)

    async def answer(self, text: str) -> Response:
        """Followers and followees of the key that `text` is in hexadecimal; zeros for an unknown one."""
        if _HEX_KEY.fullmatch(text) is None:
            return response(HTTPStatus.BAD_REQUEST, JSON, INVALID_PUBLIC_KEY)
        began = self._clock.monotonic()
        try:
            counts = await self._thread.run(partial(_counts, bytes.fromhex(text)))
        except (apsw.Error, EventServiceError):
            self._failed.record(self._clock.monotonic() - began)
            raise
        self._succeeded.record(self._clock.monotonic() - began)
        body = {"followers": counts.followers, "followees": counts.followees}
        return response(HTTPStatus.OK, JSON, json.dumps(body, separators=(",", ":")).encode())


class PageAccess:
    """Rule of who sees the status page."""

    def __init__(self, shown_to: Callable[[], StatusPageAccess], token: str) -> None:
        self._shown_to = shown_to
        self._token = token

    def admit(self, connection: LimitedConnection, request: Request) -> PageRequest | None:
        """Return what a browser asks of the page; None if it may not see it.

        Being local needs the token as well: what a proxy on this machine forwards comes from this machine too. A
        query's token that is not ours is left out.
        """
        asked = parse_request(request.path)
        access = self._shown_to()
        if access is StatusPageAccess.EVERYONE:
            return replace(asked, token="")
        if access is StatusPageAccess.OFF or not _is_from_here(connection, request):
            return None
        if is_page_token(self._token, asked.token):
            return replace(asked, token=self._token)
        kept = cookie_of(request.headers.get_all("Cookie"))
        return replace(asked, token="") if is_page_token(self._token, kept) else None


class Page(Protocol):
    """What a browser is shown at `/`."""

    async def answer(self, request: PageRequest) -> Response:
        """Return the page as it is now."""
        ...


class Web:
    """Answers every request that does not become a websocket; used by the event loop alone."""

    def __init__(
        self,
        scrape: Scrape,
        health: HealthCheck,
        public_keys: PublicKeys,
        page: Page,
        access: PageAccess,
        errors: ErrorLog,
        rates: RequestRates,
    ) -> None:
        self._scrape = scrape
        self._health = health
        self._public_keys = public_keys
        self._page = page
        self._access = access
        self._errors = errors
        self._rates = rates

    async def process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return the answer to a request, `None` if it may become a websocket."""
        assert isinstance(connection, LimitedConnection)
        # Releases of the library before 17 know no methods: they refuse all but GET by themselves.
        method = getattr(request, "method", "GET")
        path = request.path.partition("?")[0]
        try:
            answer = await self._answer(connection, request, method, path)
        except Rejected as error:
            connection.guard.refuse(error.reason)
            connection.is_refused = True
            answer = _refused(error.reason)
        except Exception as error:
            # Whatever is wrong with one answer, the server goes on.
            self._errors.unexpected("http", "a request failed", error, path=path)
            answer = response(HTTPStatus.INTERNAL_SERVER_ERROR, TEXT, b"internal server error\n")
        if answer is not None and method == "HEAD":
            answer.body = b""
        return answer

    async def _answer(self, connection: LimitedConnection, request: Request, method: str, path: str) -> Response | None:
        self._note_unnamed_proxy(connection, request)
        connection.identify(_forwarded_for(request))
        if path == "/":
            if _is_browser(request, method) and (asked := self._access.admit(connection, request)) is not None:
                connection.open_request()
                self._rates.render(connection.client)
                answer = await self._page.answer(asked)
                if asked.token:
                    answer.headers["Set-Cookie"] = f"{TOKEN_COOKIE}={asked.token}; Path=/; HttpOnly; SameSite=Strict"
                return answer
            if method in ("GET", "HEAD") and "Upgrade" not in request.headers:
                return response(HTTPStatus.OK, TEXT, _WELCOME)
            connection.guard.require_origin(request.headers.get_all("Origin"))
            connection.open_session()
            return None
        connection.open_request()
        route = self._route(path)
        if route is None:
            return response(HTTPStatus.NOT_FOUND, TEXT, b"404 page not found\n")
        if method not in ("GET", "HEAD"):
            answer = response(HTTPStatus.METHOD_NOT_ALLOWED, TEXT, b"method not allowed\n")
            answer.headers["Allow"] = "GET, HEAD"
            return answer
        if path == "/metrics":
            self._rates.render(connection.client)
        elif path not in _CHECKS:
            self._rates.look_up(connection.client)
        return await route()

    def _note_unnamed_proxy(self, connection: LimitedConnection, request: Request) -> None:
        """Count what says that it was forwarded, from a peer that `EVENTS_TRUSTED_PROXIES` does not name.

        Where proxies are named, a far peer's header is only a visitor's.
        """
        peer = connection.peer
        if peer is None or peer.is_proxy or not any(name in request.headers for name in _FORWARDING):
            return
        if peer.is_near or not connection.guard.proxies:
            connection.guard.refuse(RejectReason.UNNAMED_PROXY)

    def _route(self, path: str) -> Callable[[], Awaitable[Response]] | None:
        if path == "/metrics":
            return self._metrics
        if path in _CHECKS:
            return partial(self._checked, _CHECKS[path])
        key = path.removeprefix(_PUBLIC_KEYS)
        if key and key != path and "/" not in key:
            return partial(self._public_keys.answer, key)
        return None

    async def _metrics(self) -> Response:
        return response(HTTPStatus.OK, CONTENT_TYPE, await self._scrape.text())

    async def _checked(self, check: Callable[[HealthCheck], Awaitable[Health]]) -> Response:
        health = await check(self._health)
        return response(HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE, JSON, health.body)


def _is_browser(request: Request, method: str) -> bool:
    if method not in ("GET", "HEAD") or "Upgrade" in request.headers:
        return False
    return any("text/html" in value for value in request.headers.get_all("Accept"))


def _is_from_here(connection: LimitedConnection, request: Request) -> bool:
    """Return True if a browser on this machine asks for this machine, and no trusted proxy asks for a visitor."""
    peer, host = connection.peer, request.headers.get_all("Host")
    is_forwarded = peer is None or (peer.is_proxy and any(name in request.headers for name in _FORWARDING))
    return not is_forwarded and len(host) == 1 and is_local(str(connection.remote_address[0]), host[0])


def response(status: HTTPStatus, content_type: str, body: bytes) -> Response:
    """Return a complete answer, the last of its connection."""
    headers = Headers(
        [
            ("Date", formatdate(usegmt=True)),
            ("Connection", "close"),
            ("Content-Length", str(len(body))),
            ("Content-Type", content_type),
        ]
    )
    return Response(status.value, status.phrase, headers, body)


def _refused(reason: RejectReason) -> Response:
    if reason is RejectReason.ORIGIN:
        return response(HTTPStatus.FORBIDDEN, TEXT, b"this origin is not allowed\n")
    if reason is not RejectReason.REQUESTS:
        return response(HTTPStatus.SERVICE_UNAVAILABLE, TEXT, b"too many requests at once\n")
    answer = response(HTTPStatus.TOO_MANY_REQUESTS, TEXT, b"too many requests, try again in a minute\n")
    answer.headers["Retry-After"] = "60"
    return answer


def _forwarded_for(request: Request) -> str | None:
    try:
        return request.headers.get("X-Forwarded-For")
    except MultipleValuesError:
        return request.headers.get_all("X-Forwarded-For")[-1]


def _counts(public_key: bytes, database: Database) -> Counts:
    with database.read() as tx:
        return contacts.counts(tx, public_key)
