"""When a relay is dialled again, by how its last connection went, and how many are dialled in a minute. Pure."""

import random
from dataclasses import dataclass
from typing import Final

from pipeline.process.rate import Rate
from pipeline.relay.errors import LossReason
from pipeline.relay.retry_after import MAX_RETRY_AFTER_S

DIALS: Final = Rate(burst=200, per_minute=600)
"""Dials of all crawler processes together: a thousand relays are dialled within a minute and a half of the start.

When the line comes back after an outage all of them are due at once, and would fill the tables of a small router and
look like an attack to whoever hosts many of them.
"""

FAST_DIALS: Final = Rate(burst=100, per_minute=1200)
"""The same for relays that were just lost, beside the others: fifty are tried every two and a half seconds."""

_DIAL_BASE_S: Final = 5.0
_DIAL_FACTOR: Final = 5.0
_DIAL_CAP_S: Final = 1800.0
# A connection that worked this long wipes the failures before it.
HEALTHY_S: Final = 60.0
# One that was lost sooner but brought something new counts as no more failures than these: whoever cuts each connection
# after so many messages still has the rest, and what is published meanwhile.
_MOST_IF_OF_USE: Final = 2
_AFTER_LOSS_S: Final = 2.0
_OUR_FAULT_S: Final = 10.0
# By then its address, network or domain may be dialled again some more.
_CROWDED_S: Final = 240.0
_OVERLOADED_S: Final = 300.0
_OVERLOADED_STATUS: Final = frozenset({429, 503})
# Within the first wait a budget for forgeries is there again that is worth a connection.
_FORGED_BASE_S: Final = 300.0
# Answers of a web server that has no relay at this path: not found, gone, elsewhere, or a page for people.
_MISSING_STATUS: Final = frozenset({200, 301, 302, 303, 307, 308, 404, 405, 410})

MAX_DELAY_S: Final = 1.25 * MAX_RETRY_AFTER_S
"""No redial is put off for longer: one that is was planned by a clock that was ahead."""


@dataclass(frozen=True, slots=True)
class ConnectionResult:
    """How a connection or the attempt at one ended; `lifetime_s` is seconds after the handshake, 0 if there was none.

    `was_productive`: events came that were not known before, or a sweep came further. `answered`: something on the
    other side said yes or no, so that the line works. `has_taught`: the loss showed how to ask for less in one request.
    `retry_after_s`: for how long a relay that answered with `status` asked to be left alone.
    """

    reason: str
    detail: str
    lifetime_s: float = 0.0
    was_productive: bool = False
    has_taught: bool = False
    answered: bool = False
    status: int | None = None
    retry_after_s: int | None = None
    permanent: bool = False
    is_local_fault: bool = False
    by_request: bool = False
    timed_out: bool = False
    """The dial ended since nothing came in time."""
    is_crowded: bool = False
    """It was not dialled, since its address, network or domain was too often."""

    @property
    def connected(self) -> bool:
        """Whether there was a connection."""
        return self.lifetime_s > 0

    @property
    def is_forging(self) -> bool:
        """Return True if the relay was cut off for forged events."""
        return self.reason == LossReason.FORGED


def failures_after(failures: int, ending: ConnectionResult) -> int:
    """The number of failures in a row, after `ending`; what this machine lacked or wanted is none of the relay's."""
    if ending.is_forging:
        # However long it lasted and whatever else it brought.
        return failures + 1
    if ending.lifetime_s >= HEALTHY_S:
        return 0
    if ending.is_local_fault or ending.by_request or ending.has_taught or ending.is_crowded:
        return failures
    return min(failures + 1, _MOST_IF_OF_USE if ending.was_productive else 100)


def is_missing(ending: ConnectionResult) -> bool:
    """Whether there is no relay at the address as it was dialled, though perhaps at another spelling of it."""
    return not ending.connected and ending.status in _MISSING_STATUS


def delay_s(failures: int, ending: ConnectionResult, rng: random.Random) -> float:
    """Seconds until the next dial; `failures` counts this ending, too. Jittered, so that relays spread out."""
    if ending.by_request:
        return 0.0
    if ending.is_crowded:
        return _CROWDED_S * rng.uniform(0.5, 1.5)
    if ending.is_local_fault:
        base = _OUR_FAULT_S
    elif ending.is_forging:
        base = min(_FORGED_BASE_S * 2.0 ** min(failures, 16), _DIAL_CAP_S)
    elif ending.connected:
        is_soon = failures <= 1 or ending.has_taught
        base = _AFTER_LOSS_S if is_soon else min(_DIAL_BASE_S * 2.0 ** min(failures, 16), _DIAL_CAP_S)
    elif ending.permanent:
        base = _DIAL_CAP_S
    else:
        base = min(_DIAL_BASE_S * _DIAL_FACTOR ** (min(failures, 8) - 1), _DIAL_CAP_S)
    if ending.status in _OVERLOADED_STATUS:
        if ending.retry_after_s is not None and ending.retry_after_s >= base:
            # Later than it says, never earlier.
            return ending.retry_after_s * rng.uniform(1.0, 1.25)
        if ending.retry_after_s is None:
            base = max(base, _OVERLOADED_S)
    return base * rng.uniform(0.75, 1.25)


def resumed_at(next_dial_at: int, planned_at: int, now: int) -> int:
    """Return when a dial is due that an earlier process planned for `next_dial_at`, at `planned_at` (all in ms).

    One that was planned by a clock which was ahead is due now.
    """
    is_wrong = planned_at > now or next_dial_at - planned_at > MAX_DELAY_S * 1000
    return min(next_dial_at, now) if is_wrong else next_dial_at


def dial_rate(crawlers: int) -> Rate:
    """The part of `DIALS` that each of so many crawler processes has; relays are shared out about evenly."""
    return Rate(max(1, DIALS.burst // crawlers), DIALS.per_minute / crawlers)


def fast_dial_rate(crawlers: int) -> Rate:
    """The part of `FAST_DIALS` that each of so many crawler processes has."""
    return Rate(max(1, FAST_DIALS.burst // crawlers), FAST_DIALS.per_minute / crawlers)
