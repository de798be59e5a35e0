"""systemd's watch over a stage in a unit of its own: readiness at its first heartbeat, and silence once it hangs."""

import threading
from pathlib import Path
from typing import Final

from pipeline.process.clock import Clock
from pipeline.process.heartbeat import read_heartbeat
from pipeline.process.notify import Notifier

_LOOK_EVERY_S: Final = 0.5


class StageWatchdog:
    """Reporter of a stage's heartbeat to systemd, in a thread of its own, until `close`.

    systemd hears nothing more once the stage has sent no heartbeat for half of its watchdog interval, then kills it.
    Does nothing where systemd does not listen.
    """

    def __init__(self, runtime_directory: Path, slot_name: str, notifier: Notifier, clock: Clock) -> None:
        self._runtime_directory = runtime_directory
        self._slot_name = slot_name
        self._notifier = notifier
        self._clock = clock
        self._closed = threading.Event()
        self._is_ready = False
        self._told_at = 0.0
        if notifier.listens:
            threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Say that the stage is stopping, and nothing after that."""
        self._closed.set()
        self._notifier.stopping()

    def _run(self) -> None:
        while not self._closed.wait(_LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """Tell systemd how the stage fares."""
        reading = read_heartbeat(self._runtime_directory, self._slot_name, self._clock)
        if reading is None or not reading.ready:
            return
        if not self._is_ready:
            self._is_ready = True
            self._notifier.ready(f"{self._slot_name} runs")
        interval_s = self._notifier.watchdog_interval_s
        now_s = self._clock.monotonic()
        if interval_s is not None and reading.age_s < interval_s / 2 and now_s - self._told_at >= interval_s / 4:
            self._told_at = now_s
            self._notifier.watchdog()
