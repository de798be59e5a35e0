"""`protocol`: the steps of the protocol library, see `tests.tools.bench.protocol`."""

from tests.corpus import REAL
from tests.tools.bench import protocol
from tests.tools.bench.report import Figure, PartReport, per_second


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `protocol`."""
    frames, rounds = (500, 2) if quick else (2000, 5)
    figures: list[Figure] = []
    sets = {"typical": protocol.typical_frames(frames)}
    if REAL is not None:
        sets["real"] = protocol.real_frames()[:frames]
    for name, chosen in sets.items():
        size = sum(map(len, chosen)) // len(chosen)
        for step, rate in protocol.measure(chosen, rounds).items():
            figures.append(per_second(f"{name}: {step}", rate, limit, f"{1e6 / rate:.1f} us, {size} bytes"))
    return PartReport("protocol", tuple(figures), ("events per second of processor time of one thread",))
