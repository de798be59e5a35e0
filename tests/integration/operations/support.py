"""Looks at a running service from outside, as an operator takes them."""

import json
from collections.abc import Callable
from time import monotonic
from typing import Any

from tests.fakes.net import pause
from tests.fakes.relay import ScriptedRelay
from tests.fakes.service import EventService

PATIENCE_S = 60.0


def until(holds: Callable[[], bool], what: Callable[[], object]) -> None:
    """Return once it holds; fails with `what` there was instead."""
    deadline = monotonic() + PATIENCE_S
    while not holds():
        assert monotonic() < deadline, what()
        pause(0.1)


def problems(service: EventService) -> list[dict[str, str]]:
    """What `/_health` complains of; empty when it answers as the Go service did."""
    status, body = service.get("/_health")
    if status == 200:
        assert body == '"ok"'
        return []
    assert status == 503
    found: list[dict[str, str]] = json.loads(body)["problems"]
    return found


def wait_state(service: EventService, relay: ScriptedRelay, state: str) -> None:
    """Return once the service shows the relay in this state of its connection."""
    service.wait_metric("relay_connection_state_gauge", lambda value: value == 1, address=relay.url, state=state)


def complaint(service: EventService, stage: str, why: str) -> dict[str, str]:
    """The problem of `stage` whose reason has `why` in it, once there is one."""
    found: list[dict[str, str]] = []

    def look() -> bool:
        # Kept, since it may be gone at the next look.
        found[:] = [each for each in problems(service) if each["stage"].startswith(stage) and why in each["why"]]
        return bool(found)

    until(look, lambda: problems(service))
    return found[0]


def logged(service: EventService, message: str) -> list[dict[str, Any]]:
    """The lines of this message."""
    lines = (json.loads(line) for line in service.log_text().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("message") == message]
