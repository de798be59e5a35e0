"""The shares that this host holds, as far as it knows. Pure; times are boot seconds.

The hub knows who holds what. Here it is decided when the lease is renewed, what crawlers may ask, and when a share can
be released. The right that crawlers have is for `held`, and ends by itself (`pipeline.crawl.fence`).

| a share is | event | then it is |
|---|---|---|
| unknown | the hub grants it | granted: its relays are not yet known here |
| granted | its relays are written down | held |
| granted, held | the hub says that it is to be released | leaving: no part of the right any more |
| leaving | the crawlers that run follow the right without it, or their right before it is over | released |
| leaving | the hub grants it again | granted |
| any | the hub does not name it | unknown |

A hub that went back to an older state grants what another host has taken since. This host's renewals are numbered, and
the hub that has seen fewer than it confirmed has gone back: then nothing new is taken, nor granted, for a whole lease,
within which every right from before has ended or been renewed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

# Of the lease: renewed so often, a few renewals may fail before anything ends.
_RENEW_AFTER: Final = 0.1
UNKNOWN_VERSION: Final = -1


@dataclass(frozen=True, slots=True)
class Grant:
    """The hub's answer to a renewal; without `held`, nothing changed since the version that was known."""

    version: int
    went_back: bool
    held: frozenset[str] | None
    leaving: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Leaving:
    version: int | None
    """The version of the right without it; None until that is written."""
    since: float


@dataclass(slots=True)
class ShareLease:
    """The state of all shares of this host. For one thread."""

    lease_s: float
    held: frozenset[str] = frozenset()
    granted: frozenset[str] = frozenset()
    known: int = UNKNOWN_VERSION
    number: int = 0
    """Of the newest renewal that was tried."""
    confirmed: int = 0
    """Of the newest renewal that was answered."""
    renew_at: float = 0.0
    asked_at: float = 0.0
    """When the newest renewal that was answered was sent."""
    trusted_at: float = 0.0
    """Until then nothing new is taken, since the hub went back."""
    _leaving: dict[str, _Leaving] = field(default_factory=dict)

    @property
    def is_leaving(self) -> bool:
        """Return True if any share is to be released."""
        return bool(self._leaving)

    def is_due(self, now: float) -> bool:
        """Return True if the lease is to be renewed."""
        return now >= self.renew_at

    def may_take(self, now: float) -> bool:
        """Return True if what the hub grants again is to be believed."""
        return now >= self.trusted_at

    def on_renewing(self, wall_ms: int, now: float) -> int:
        """Return the number of a renewal that is sent now; numbers grow, over restarts as well."""
        self.number = max(self.number + 1, wall_ms)
        self.renew_at = now + _RENEW_AFTER * self.lease_s
        return self.number

    def on_renewed(self, grant: Grant, asked_at: float) -> frozenset[str]:
        """Take the answer to the renewal that was sent at `asked_at`; return what is held no longer."""
        self.asked_at, self.confirmed = asked_at, self.number
        if grant.went_back:
            self.trusted_at = asked_at + self.lease_s
        if grant.held is None:
            return frozenset()
        # What is not taken now is looked for again.
        self.known = grant.version if self.may_take(asked_at) else UNKNOWN_VERSION
        before, lost = self.held, self.held - grant.held
        self.held &= grant.held
        self.granted = grant.held - self.held if self.may_take(asked_at) else frozenset()
        self._leaving = {
            # What no right had is asked by none.
            each: self._leaving.get(each, _Leaving(None if each in before else 0, asked_at))
            for each in grant.leaving
        }
        return lost

    def on_connected(self) -> None:
        """Another connection: what the hub knows is asked for as a whole."""
        self.known, self.renew_at = UNKNOWN_VERSION, 0.0

    def on_loaded(self, host_keys: Iterable[str]) -> None:
        """Hold what was granted, now that its relays are written down."""
        loaded = self.granted & frozenset(host_keys)
        self.held |= loaded
        self.granted -= loaded

    def on_written(self, version: int) -> None:
        """The right of this version, without what is leaving, is written."""
        for each in self._leaving.values():
            if each.version is None:
                each.version = version

    def releasable(self, followed: Mapping[str, int], running: Iterable[str], now: float) -> list[str]:
        """Return the shares that no crawler asks any more.

        `followed`: by slot, the version that a crawler follows; `running`: the slots of those that run.
        """
        oldest = min((followed.get(slot, -1) for slot in running), default=None)
        return [
            host_key
            for host_key, each in self._leaving.items()
            if each.version is not None
            and (oldest is None or oldest >= each.version or now >= each.since + self.lease_s)
        ]

    def on_released(self, host_keys: Iterable[str]) -> None:
        """Forget what was released."""
        for each in host_keys:
            self._leaving.pop(each, None)
