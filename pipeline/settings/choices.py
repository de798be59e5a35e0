"""The values of settings that are a choice, and those that have a shape of their own."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final


class Environment(StrEnum):
    """Where the service runs; DEVELOPMENT posts nothing to Google Pub/Sub."""

    PRODUCTION = "PRODUCTION"
    DEVELOPMENT = "DEVELOPMENT"


class LogLevel(StrEnum):
    """How much is logged."""

    TRACE = "TRACE"
    DEBUG = "DEBUG"
    ERROR = "ERROR"
    DISABLED = "DISABLED"


class HostRole(StrEnum):
    """What a host does of a service that runs on several."""

    CRAWLER = "crawler"
    """It crawls, and hands events over to the hub."""
    HOME = "home"
    """It takes events from the hub, and does all else."""


class CrawlMode(StrEnum):
    """How relays are asked."""

    AUTO = "auto"
    """By query while that fits the relay and is cheap, else whole."""
    QUERY = "query"
    """By authors and mentions, in chunks."""
    WHOLE = "whole"
    """For everything at once; what is wanted is found here."""


class StatusPageAccess(StrEnum):
    """To whom the status page is shown."""

    LOCAL = "local"
    """To browsers on this machine, by localhost or a loopback address."""
    EVERYONE = "everyone"
    OFF = "off"


class RegistrationMode(StrEnum):
    """Who may become a user."""

    OPEN = "open"
    """Anyone."""
    ALLOWLIST = "allowlist"
    """The keys of `EVENTS_REGISTRATION_ALLOWLIST`."""
    PROOF_OF_WORK = "proof-of-work"
    """Those who prove work of `EVENTS_REGISTRATION_DIFFICULTY` bits (NIP-13)."""


@dataclass(frozen=True, slots=True)
class KeyList:
    """A file with a public key a line, and the keys that it held when it was read."""

    path: Path
    keys: frozenset[bytes]

    def __str__(self) -> str:
        return str(self.path)


class RetractedEvents(StrEnum):
    """What becomes of events that are known to be deleted, vanished or expired when they are saved."""

    FORWARD = "forward"
    """They go to Pub/Sub like all others, with the attribute `retracted`."""
    SUPPRESS = "suppress"
    """They go nowhere."""


class SinkKind(StrEnum):
    """What takes the events of an outbox."""

    PUBSUB = "pubsub"
    JSONL = "jsonl"
    STDOUT = "stdout"
    NONE = "none"
    PLUGIN = "plugin"
    """A sink that another package brings, by an entry point of `SINK_GROUP`."""


SINK_GROUP: Final = "event_service.sinks"


@dataclass(frozen=True, slots=True)
class SinkSetting:
    """One sink of `EVENTS_SINK`: its kind, for `jsonl` the file it appends to, for a plugin its name and argument."""

    kind: SinkKind
    path: Path | None = None
    name: str = ""
    argument: str = ""

    @property
    def sink(self) -> str:
        """What the sink is called: its kind, or its name among plugins."""
        return self.name or self.kind.value

    def __str__(self) -> str:
        rest = self.argument if self.path is None else str(self.path)
        return f"{self.sink}:{rest}" if rest else self.sink
