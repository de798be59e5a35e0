"""How long to wait until a relay is asked again for what it did not give."""

from typing import Final

from pipeline.relay.refusals import Refusal

# Waits (seconds) after a failure; doubled each time.
RETRY_S: Final = 2.0
MAX_RETRY_S: Final = 300.0
# What cannot be completed is gone through again at this interval, for what is new.
LASTING_RETRY_S: Final = 600.0
# What a relay takes less of is asked for again at once, but with a breath between where it takes ever less.
SMALLER_RETRY_S: Final = 0.2
MAX_SMALLER: Final = 16
_SMALLER: Final = frozenset({Refusal.TOO_LARGE, Refusal.TOO_MANY_FILTERS, Refusal.KIND_REFUSED, Refusal.UNCLEAR})
# What was refused for good is not asked for in the same form for a day; a small request shows if the relay relents.
FINAL_RETRY_S: Final = 86_400.0
PROBE_EVERY_S: Final = 1_200.0


def retry_wait(refusal: Refusal, failures: int, *, lasting_s: float = FINAL_RETRY_S) -> float:
    """Seconds until the same is asked for again, after so many refusals in a row before this one.

    `lasting_s`: for what was refused for good; requests that are small themselves are asked for again sooner.
    """
    if refusal is Refusal.FORBIDDEN:
        return FINAL_RETRY_S
    if refusal is Refusal.RATE_LIMITED:
        # How long the host is left alone tells its backoff, for all requests together.
        return RETRY_S
    if refusal in _SMALLER and failures < MAX_SMALLER:
        # Each time there is less, or one kind less, to ask for.
        return SMALLER_RETRY_S
    if refusal.asks_for_change and not failures:
        return 0.0
    return lasting_s if refusal.is_lasting else min(RETRY_S * 2.0 ** min(failures, 16), MAX_RETRY_S)
