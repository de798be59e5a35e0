"""Which connections lead nowhere any more, though no end of them was heard. Pure; times are monotonic seconds.

| state | event | next state | does |
|---|---|---|---|
| heard | a keepalive probe is not answered | doubtful | pings, since some hosts ignore such probes |
| doubtful | anything is received or acknowledged | heard | |
| doubtful | silent for `LOST_AFTER_S`, and the ping was resent without an answer | lost | |

Where no relay is heard at all, the fault is most likely on our side. Connections are kept then, since most go on by
themselves once the line is back. One every `PROBE_EVERY_S` is lost, so that its dials find out when that is. Those that
have not gone on `GRACE_S` later are lost, too.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from pipeline.relay.tcp_path import KEEPALIVE_IDLE_S, TcpPath

CHECK_EVERY_S: Final = 1.0
QUIET_S: Final = float(KEEPALIVE_IDLE_S)
"""What brought something within this time is not looked at."""
LOST_AFTER_S: Final = 7.0
"""A path that works again within this time has its events within as long; over a new connection it is sooner."""
GRACE_S: Final = 3.0
PROBE_EVERY_S: Final = 10.0
# Resent so often, it was not one segment that got lost.
_RESENT: Final = 2
# Fewer connections say nothing about the line.
_LEAST_CROWD: Final = 4


class PathVerdict(Enum):
    """What is to be done with a connection."""

    FINE = auto()
    PING = auto()
    LOST = auto()


@dataclass(slots=True)
class PathWatch:
    """Judges the paths of all connections of a process together, every `CHECK_EVERY_S`."""

    _checked_at: float = 0.0
    _up_since: float = 0.0
    """Since when the line works, as far as is known."""
    _probed_at: float = -math.inf

    def is_due(self, now: float) -> bool:
        """Return True if it is time to look at the paths."""
        return now - self._checked_at >= CHECK_EVERY_S

    def judge(self, paths: Sequence[TcpPath], now: float) -> list[PathVerdict]:
        """Return a verdict for each path; `paths` are those of all connections."""
        self._checked_at = now
        if len(paths) >= _LEAST_CROWD and not _is_any_heard(paths):
            self._up_since = now
        verdicts = [_verdict(each) for each in paths]
        if len(paths) < _LEAST_CROWD or now - self._up_since >= GRACE_S:
            return verdicts
        return self._without_losses(verdicts, now)

    def _without_losses(self, verdicts: list[PathVerdict], now: float) -> list[PathVerdict]:
        """Keep those that are lost, but for one now and then."""
        may_probe = now - self._probed_at >= PROBE_EVERY_S
        for number, verdict in enumerate(verdicts):
            if verdict is PathVerdict.LOST and may_probe:
                may_probe, self._probed_at = False, now
            elif verdict is PathVerdict.LOST:
                verdicts[number] = PathVerdict.FINE
        return verdicts


def _is_any_heard(paths: Iterable[TcpPath]) -> bool:
    return any(each.silent_s < LOST_AFTER_S for each in paths)


def _verdict(path: TcpPath) -> PathVerdict:
    if path.silent_s >= LOST_AFTER_S and path.resent >= _RESENT:
        return PathVerdict.LOST
    is_doubtful = path.probes > 0 and path.silent_s > KEEPALIVE_IDLE_S + CHECK_EVERY_S / 2
    return PathVerdict.PING if is_doubtful and not path.unacknowledged else PathVerdict.FINE
