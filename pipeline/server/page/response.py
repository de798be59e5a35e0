"""The page as an HTTP response: rendered, with headers for what the browser may do with it."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Final

import jinja2
from websockets.http11 import Response

from pipeline.printable import printable
from pipeline.process.clock import Clock
from pipeline.process.liveness import StageHealth
from pipeline.server.health import HealthCheck
from pipeline.server.http import response
from pipeline.server.page.request import COLUMNS, PageRequest
from pipeline.server.page.view_model import View, age, gather
from pipeline.server.worker import DatabaseThread
from pipeline.settings.config import Config
from pipeline.status.diagnosis import Severity
from pipeline.version import read_version

_HERE: Final = Path(__file__).parent
HTML: Final = "text/html; charset=utf-8"


class StatusPage:
    """The page, from the database in a thread of its own, and from what health knows."""

    def __init__(
        self, thread: DatabaseThread, health: HealthCheck, settings: Callable[[], Config], clock: Clock
    ) -> None:
        self._thread = thread
        self._health = health
        self._settings = settings
        self._clock = clock

    async def answer(self, request: PageRequest) -> Response:
        """Return the page as it is now."""
        config = self._settings()
        view = await self._thread.run(lambda database: gather(database, config, self._clock, request))
        report = await self._health.look()
        answer = response(HTTPStatus.OK, HTML, render(view, report.stages, request))
        answer.headers["Content-Security-Policy"] = _policy()
        answer.headers["Cache-Control"] = "no-store"
        answer.headers["Referrer-Policy"] = "no-referrer"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer


def render(view: View, stages: Sequence[StageHealth], request: PageRequest) -> bytes:
    """Return the page's bytes; everything that a stranger may have chosen is escaped."""
    problems = sum(each.severity is Severity.PROBLEM for each in view.diagnoses)
    text = _template().render(
        view=view, problems=problems, stages=stages, request=request, columns=COLUMNS, age=age,
        revision=read_version().revision, style=_part("page.css"), script=_part("page.js"),
    )  # fmt: skip
    return text.encode("utf-8", "backslashreplace")


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(_HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
        finalize=_visible,
    )  # fmt: skip
    return environment.get_template("page.html")


def _visible(value: object) -> object:
    """Text without what a browser obeys unseen, such as an override of the writing direction; markup as it is."""
    return printable(value) if type(value) is str else value


@cache
def _part(name: str) -> str:
    return (_HERE / name).read_text()


@cache
def _policy() -> str:
    """Nothing from elsewhere, and of script and style only what is ours, by its hash."""
    style, script = (
        base64.b64encode(hashlib.sha256(_part(name).encode()).digest()).decode() for name in ("page.css", "page.js")
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
