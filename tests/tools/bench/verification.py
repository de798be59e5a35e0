"""V: bare BIP-340 verifications per second on one core, the limit that everything else is held against."""

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import get_context
from typing import Self

from coincurve import PublicKeyXOnly

from tests.factories.events import Author
from tests.tools.bench.machine import CORES
from tests.tools.bench.report import Figure, Limit, PartReport, per_second

_SIGNATURES = 200
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Verifications:
    """Rates per second of processor time: with keys parsed before, which is V, and with the parsing."""

    parsed: float
    from_bytes: float


@dataclass(frozen=True, slots=True)
class Signed:
    """Keys, signatures and what was signed: as bytes, and with the keys parsed."""

    raw: list[tuple[bytes, bytes, bytes]]
    ready: list[tuple[PublicKeyXOnly, bytes, bytes]]

    @classmethod
    def make(cls) -> Self:
        """A few hundred of different authors."""
        signed = [Author.from_seed(7, number).sign(f"{number}", created_at=number) for number in range(_SIGNATURES)]
        raw = [(bytes.fromhex(one.pubkey), bytes.fromhex(one.sig), bytes.fromhex(one.id)) for one in signed]
        return cls(raw, [(PublicKeyXOnly(key), sig, message) for key, sig, message in raw])

    def verify(self, count: int) -> int:
        """Verify so many, with parsed keys; returns how many were right."""
        return sum(key.verify(sig, message) for key, sig, message in islice(cycle(self.ready), count))


def measure(seconds: float = 1.5) -> Verifications:
    """The best of a few rounds in turn, of processor time, so that a busy machine changes little."""
    signed = Signed.make()
    parsed = from_bytes = 0.0
    share = seconds / _ROUNDS / 2
    for _ in range(_ROUNDS):
        began, done = time.thread_time(), 0
        while time.thread_time() - began < share:
            done += signed.verify(_SIGNATURES)
        parsed = max(parsed, done / (time.thread_time() - began))
        began, done = time.thread_time(), 0
        while time.thread_time() - began < share:
            done += sum(PublicKeyXOnly(key).verify(sig, message) for key, sig, message in signed.raw)
        from_bytes = max(from_bytes, done / (time.thread_time() - began))
    return Verifications(parsed, from_bytes)


_seen: list[float] = []


def baseline_rate() -> float:
    """V, the best that this run has seen so far: the machine may be slow at one moment, but is never too quick."""
    _seen.append(measure(0.6).parsed)
    return max(_seen)


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `verify`."""
    alone = measure(1.0 if quick else 3.0)
    with ProcessPoolExecutor(CORES, get_context("spawn")) as pool:
        together = sum(one.parsed for one in pool.map(measure, [1.0 if quick else 3.0] * CORES))
    return PartReport(
        "verify",
        (
            Figure("V: verifications, key parsed before", alone.parsed, "/s"),
            per_second("with parsing the key", alone.from_bytes, limit),
            Figure(f"V of {CORES} processes at once", together, "/s", Limit(f"{CORES} V", CORES * limit)),
        ),
        ("per second of processor time of one thread, best round; every other part measures V again before it begins",),
    )
