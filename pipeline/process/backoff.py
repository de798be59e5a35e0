"""How long to wait after failures: pure arithmetic, with the randomness handed in."""

import random
from dataclasses import dataclass

# A power beyond this is larger than any sensible cap and would only overflow.
_MAX_EXPONENT = 64


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays of `base_s`, `base_s * factor`, … seconds up to `cap_s`.

    `jitter` is the share of a delay that chance may take away: 0 gives the delays exactly, 1 anything from none to all.
    """

    base_s: float
    factor: float
    cap_s: float
    jitter: float = 0.0

    def __post_init__(self) -> None:
        assert self.base_s >= 0
        assert self.cap_s >= 0
        assert self.factor >= 1
        assert 0 <= self.jitter <= 1

    def delay_s(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after `failures` failures in a row; 0 when there was none."""
        if failures <= 0:
            return 0.0
        delay_s: float = min(self.cap_s, self.base_s * self.factor ** min(failures - 1, _MAX_EXPONENT))
        return delay_s * (1 - self.jitter * rng.random())
