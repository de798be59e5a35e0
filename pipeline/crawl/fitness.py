"""Which relays this machine cannot use though others may: banned here, or out of reach. Pure; times are seconds.

| event of a host of relays | then |
|---|---|
| the handshake is refused with 403 or 429, or by a text that begins with "blocked:" | unfit |
| a dial fails while other relays are connected | counted; the third within `WITHIN_S` makes it unfit |
| a dial fails while no other relay is connected | not counted: our own line may be down |
| a dial fails for what this machine lacks or wants | not counted |
| a connection | all that was counted is forgotten |

What is unfit is said once, until a connection or a day has passed.
"""

from dataclasses import dataclass, field
from typing import Final

from pipeline.crawl.reconnect import ConnectionResult

FAILURES: Final = 3
WITHIN_S: Final = 1_800.0
SAID_FOR_S: Final = 86_400.0
_BANNED_STATUS: Final = frozenset({403, 429})
_BANNED_TEXT: Final = "blocked:"


@dataclass(slots=True)
class Fitness:
    """What is counted, by host key. For one thread."""

    _failed: dict[str, list[float]] = field(default_factory=dict)
    _said: dict[str, float] = field(default_factory=dict)

    def on_result(self, host_key: str, result: ConnectionResult, now: float, *, is_online: bool) -> str | None:
        """Take how a connection or dial ended; return why the host is unfit where it is to be said now."""
        if result.connected:
            self._failed.pop(host_key, None)
            self._said.pop(host_key, None)
            return None
        if result.by_request or result.is_local_fault or result.is_crowded:
            return None
        reason = self._reason(host_key, result, now, is_online=is_online)
        if reason is None or now - self._said.get(host_key, -SAID_FOR_S) < SAID_FOR_S:
            return None
        self._said[host_key] = now
        self._failed.pop(host_key, None)
        return reason

    def forget(self, host_key: str) -> None:
        """The relays of a host are crawled here no more."""
        self._failed.pop(host_key, None)
        self._said.pop(host_key, None)

    def _reason(self, host_key: str, result: ConnectionResult, now: float, *, is_online: bool) -> str | None:
        if result.status in _BANNED_STATUS or _BANNED_TEXT in result.detail:
            return f"refused with {result.status}" if result.status is not None else "blocked"
        if not is_online:
            return None
        recent = [at for at in self._failed.get(host_key, ()) if now - at < WITHIN_S]
        self._failed[host_key] = [*recent, now]
        return f"{FAILURES} dials failed: {result.detail}" if len(recent) + 1 >= FAILURES else None
