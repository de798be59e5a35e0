"""How late the machine lets the service be: the time that its processes were ready to run and had to wait.

A busy machine makes all processes late, and no judgement of how long something took may count that as a fault. The
kernel says for each thread how long it has waited for a processor. `CompensatedClock` leaves that time out, but never
more than `MOST_FORGIVEN` of any second, so that what lasts is judged in the end, on any machine.
"""

import bisect
import threading
from collections.abc import Iterable
from pathlib import Path

MOST_FORGIVEN = 0.75
_NS = 1e-9


def waited_s(pid: int) -> float:
    """How long the threads of a process have been ready to run without a processor, in all; 0 when it is gone."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[1])
        except (OSError, IndexError):
            continue
    return total * _NS


class CompensatedClock:
    """Monotonic seconds without those that the machine took; `tick` is called now and then, by whatever thread."""

    def __init__(self, now: float) -> None:
        self._lock = threading.Lock()
        self._at = [now]
        self._fair = [now]
        self._waited: dict[int, float] = {}
        self.forgiven_s = 0.0

    def tick(self, now: float, pids: Iterable[int]) -> None:
        """Go on to `now`: the process that waited longest since the last tick says how late everybody was."""
        waited = {pid: waited_s(pid) for pid in pids}
        with self._lock:
            passed = now - self._at[-1]
            if passed <= 0:
                return
            delays = [amount - self._waited[pid] for pid, amount in waited.items() if pid in self._waited]
            self._waited = waited
            late = min(max([0.0, *delays]), passed * MOST_FORGIVEN)
            self.forgiven_s += late
            self._at.append(now)
            self._fair.append(self._fair[-1] + passed - late)

    def between(self, began: float, ended: float) -> float:
        """Compensated seconds between two moments; what lies after the last tick counts in full."""
        return self._read(ended) - self._read(began)

    def _read(self, moment: float) -> float:
        with self._lock:
            index = bisect.bisect_right(self._at, moment)
            if index == 0:
                return self._fair[0] - (self._at[0] - moment)
            if index == len(self._at):
                return self._fair[-1] + moment - self._at[-1]
            share = (moment - self._at[index - 1]) / (self._at[index] - self._at[index - 1])
            return self._fair[index - 1] + share * (self._fair[index] - self._fair[index - 1])
