"""What happened at a scripted relay, in order, with waits for what is to happen: tests await events, not time."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar

DEFAULT_TIMEOUT_S = 60.0
MAX_ENTRIES = 1_000_000
"""A test that writes more has run away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that happened: when (monotonic seconds) and on which connection (numbered from 1; 0: none)."""

    at: float
    connection: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected(Entry):
    """A client's websocket handshake was accepted. Header names are in lowercase; `client` is its address."""

    client: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected(Entry):
    """A connection ended, whoever ended it; `code` is the websocket close code, 1006 for none."""

    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Req(Entry):
    """A REQ came in, whatever became of it."""

    subscription: str
    filters: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Close(Entry):
    """A CLOSE came in."""

    subscription: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Entry):
    """A page was sent to its end: `events` stored events, and EOSE unless the script leaves it out."""

    subscription: str
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Entry):
    """The script refused or broke off a REQ."""

    subscription: str
    how: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Entry):
    """An EVENT came in, and was answered with OK `accepted`; `None`: not answered."""

    event_id: str
    kind: int
    accepted: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated(Entry):
    """An AUTH came in; `valid` when it answers the challenge."""

    pubkey: str
    valid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Other(Entry):
    """Any other message: its type, or an empty text for what is no message."""

    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest(Entry):
    """A plain HTTP request (NIP-11), or a handshake that the script refused."""

    path: str
    headers: Mapping[str, str]
    status: int


E = TypeVar("E", bound=Entry)


class Journal:
    """The entries so far; thread-safe."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._changed = threading.Condition()

    def add(self, entry: Entry) -> None:
        """Append and wake who waits."""
        with self._changed:
            assert len(self._entries) < MAX_ENTRIES, "the journal of a scripted relay is full"
            self._entries.append(entry)
            self._changed.notify_all()

    def of(self, kind: type[E], match: Callable[[E], bool] | None = None) -> list[E]:
        """The entries of one kind so far, those that `match` if given."""
        with self._changed:
            return [entry for entry in self._entries if isinstance(entry, kind) and (match is None or match(entry))]

    def wait_for(
        self,
        kind: type[E],
        match: Callable[[E], bool] | None = None,
        *,
        count: int = 1,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> E:
        """The entry number `count` of those that match, as soon as there is one; raises `TimeoutError`."""
        deadline = monotonic() + timeout_s
        seen = 0
        found = 0
        with self._changed:
            while True:
                for entry in self._entries[seen:]:
                    if isinstance(entry, kind) and (match is None or match(entry)):
                        found += 1
                        if found == count:
                            return entry
                seen = len(self._entries)
                left = deadline - monotonic()
                if left <= 0:
                    tail = "\n  ".join(map(repr, self._entries[-10:]))
                    raise TimeoutError(f"{found} of {count} {kind.__name__} after {timeout_s} s; last:\n  {tail}")
                self._changed.wait(left)
