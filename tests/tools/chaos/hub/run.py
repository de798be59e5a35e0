"""One run over several hosts from beginning to end, and what it has shown."""

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.child import ROOT
from tests.fakes.host_network import best_network
from tests.fakes.net import pause
from tests.oracle.delivery import DeliveryReport
from tests.support.run_folder import copy_run
from tests.tools.chaos.environment import Environment
from tests.tools.chaos.hub.faults import FAULTS, LEAST_WAITING, Play, pile_up
from tests.tools.chaos.hub.installation import Installation
from tests.tools.chaos.hub.looks import Watcher
from tests.tools.chaos.patched_source import PatchedSource, Replacement

LEASE_S = 30.0
"""As the product has it; another one is written into a copy of the source."""
RATE = 20.0
LATE_S = 600
KILLS = 50
SETTLE_S = 240.0
LEAST_CURSOR_LOOKS, LEAST_ASK_LOOKS = 500, 3_000
_KILL_EVERY_S = (2.0, 6.0)
_GAP_S = 3.0
_STEP_S = 0.05
_FLUSH_LIMIT_S = 600.0
_SAY_EVERY_S = 10.0
# A relay is asked again, and what was on its way is looked for, after the last fault.
_MOST_WAITS = 4
_MAX_LISTED = 10


@dataclass(frozen=True, slots=True)
class HubOptions:
    """What to run. `settle_s`: for how long nothing may arrive of what is due after the last fault.

    `lease_s`: of shares. `kinds`: faults, all by default. `keep`: where the files of a failed run are copied to.
    """

    seed: int
    kills: int = KILLS
    hosts: int = 3
    kinds: tuple[str, ...] = tuple(FAULTS)
    lease_s: float = LEASE_S
    settle_s: float = SETTLE_S
    keep: Path | None = None
    source: Path = ROOT
    damage: tuple[Replacement, ...] = ()


@dataclass(slots=True)
class HubReport:
    """All of one run."""

    options: HubOptions
    faults: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    disks_lost: list[int] = field(default_factory=list)
    """How many events waited on each disk that was lost."""
    cursor_looks: int = 0
    cursor_parcels: int = 0
    cursor_violations: list[str] = field(default_factory=list)
    ask_looks: int = 0
    ask_violations: list[str] = field(default_factory=list)
    delivered: DeliveryReport | None = None
    settled_after_s: float = 0.0
    seconds: float = 0.0
    network: str = ""

    @property
    def failures(self) -> list[str]:
        """Every verdict that is not as it must be."""
        failed = [f"cursor: {text}" for text in self.cursor_violations]
        failed += [f"asked twice: {text}" for text in self.ask_violations]
        if self.delivered is None or not self.delivered.clean:
            failed.append("deliveries")
        # A run with fewer kills is a short form, which need not have seen everything.
        if self.options.kills >= KILLS:
            if self.cursor_looks < LEAST_CURSOR_LOOKS or self.ask_looks < LEAST_ASK_LOOKS:
                failed.append("too few looks")
            if self.kills.total() < KILLS:
                failed.append("too few kills")
            few = (waited for waited in self.disks_lost if waited < LEAST_WAITING)
            failed += [f"only {waited} events waited on a lost disk" for waited in few]
        return failed

    @property
    def ok(self) -> bool:
        """Whether the run passes."""
        return not self.failures

    def text(self) -> str:
        """A page for a reader."""
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        disks = f" (events on lost disks: {', '.join(map(str, self.disks_lost))})" if self.disks_lost else ""
        lines = [
            f"seed {self.options.seed}: {self.options.hosts} hosts on {self.network}, {self.seconds:.0f} s",
            f"faults: {', '.join(self.faults)}{disks}",
            f"{self.kills.total()} kills: {kills}",
            f"cursor ahead of an event that the hub lacks: {len(self.cursor_violations)} in {self.cursor_looks} looks"
            f" and {self.cursor_parcels} parcels",
            f"relay asked by two hosts at once: {len(self.ask_violations)} in {self.ask_looks} looks",
            "" if self.delivered is None else self.delivered.text(),
            f"settled {self.settled_after_s:.1f} s after the last fault",
            *(f"FAILED: {each}" for each in self.failures[:_MAX_LISTED]),
            "PASSED" if self.ok else "NOT PASSED",
        ]
        return "\n".join(line for line in lines if line)


def run_hub(options: HubOptions, say: Callable[[str], None]) -> HubReport:
    """Start environment and hosts, inject faults, end them, and judge; raises `NoPostgres`."""
    began = time.monotonic()
    report = HubReport(options)
    directory = Path(tempfile.mkdtemp(prefix="chaos-hub-"))
    try:
        tree = PatchedSource(directory / "tree", options.source)
        tree.replace(*options.damage, *_lease(options.lease_s))
        with best_network() as network:
            report.network = "namespaces" if network.hub != "127.0.0.1" else "loopback"
            environment = Environment.start(
                options.seed, directory, rate=RATE, late_s=LATE_S, address=network.relay_address
            )
            try:
                rng = random.Random(f"hub faults {options.seed}")
                with Installation.start(
                    environment, network, directory, tree, rng, hosts=options.hosts, lease_s=options.lease_s
                ) as made:
                    _play(options, made, report, say)
                if options.keep is not None and not report.ok:
                    copy_run(directory, options.keep)
            finally:
                environment.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    report.seconds = time.monotonic() - began
    return report


def _lease(lease_s: float) -> list[Replacement]:
    """Shorten leases, and what must be shorter than they are."""
    if lease_s == LEASE_S:
        return []
    return [
        Replacement("pipeline/hub/share_sync.py", "LEASE_S: Final = 30.0", f"LEASE_S: Final = {lease_s}"),
        Replacement(
            "pipeline/hub/share_wish.py", "GONE_AFTER_MS: Final = 20_000",
            f"GONE_AFTER_MS: Final = {round(lease_s * 2 / 3 * 1000)}",
        ),
    ]  # fmt: skip


def _play(options: HubOptions, made: Installation, report: HubReport, say: Callable[[str], None]) -> None:
    made.environment.live_with(made.home)
    watcher = Watcher(made)
    watcher.start()
    try:
        _break(options, made, report, say)
        made.environment.flood = 1.0
        made.environment.settle(_FLUSH_LIMIT_S)
        say("healed; waiting for what is due")
        _settle(options, made, report, say)
    finally:
        watcher.stop()
        report.kills, report.disks_lost = made.kills, made.disks_lost
        report.cursor_looks, report.cursor_violations = watcher.cursors.looks, watcher.cursors.violations
        report.cursor_parcels = watcher.cursors.parcels
        report.ask_looks, report.ask_violations = watcher.asks.looks, watcher.asks.violations
    watcher.asks.look_at_journals()


def _break(options: HubOptions, made: Installation, report: HubReport, say: Callable[[str], None]) -> None:
    """Play each kind of fault in an order of chance, and kill, until there were enough of both."""
    kinds = list(options.kinds)
    made.rng.shuffle(kinds)
    began = time.monotonic()
    play: Play | None = pile_up(made)
    play_at = began
    kill_at = began + made.rng.uniform(*_KILL_EVERY_S)
    while kinds or play is not None or made.kills.total() < options.kills:
        now = time.monotonic()
        if play is None and kinds and now >= play_at:
            kind = kinds.pop()
            report.faults.append(kind)
            say(f"{now - began:6.1f} s  {kind}")
            play = FAULTS[kind](made)
            play_at = now
        if play is not None and now >= play_at:
            try:
                play_at = time.monotonic() + next(play)
            except StopIteration:
                play, play_at = None, time.monotonic() + _GAP_S
        if now >= kill_at and options.kills:
            made.kill_one()
            kill_at = time.monotonic() + made.rng.uniform(*_KILL_EVERY_S)
        pause(_STEP_S)


def _settle(options: HubOptions, made: Installation, report: HubReport, say: Callable[[str], None]) -> None:
    """Wait until all that is due has come, or nothing comes any more."""
    oracle = made.environment.oracle()
    due = oracle.required()
    began = moved = said_at = time.monotonic()
    fewest = len(due) + 1
    while True:
        deliveries = made.environment.pubsub.deliveries()
        missing = due - {each.attributes["event_id"] for each in deliveries if each.attributes}
        now = time.monotonic()
        if len(missing) < fewest:
            fewest, moved = len(missing), now
        if not missing or now - moved > options.settle_s or now - began > _MOST_WAITS * options.settle_s:
            break
        if now - said_at > _SAY_EVERY_S:
            said_at = now
            say(f"{now - began:6.1f} s  missing: {len(missing)} of {len(due)}")
        pause(1.0)
    report.settled_after_s = time.monotonic() - began
    report.delivered = oracle.judge(made.environment.pubsub.deliveries())
