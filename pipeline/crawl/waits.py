"""How long to wait until a relay is asked again for what it did not give."""

from typing import Final

from pipeline.relay.refusals import Refusal

# Waits (seconds) after a failure; doubled each time.
RETRY_S: Final = 2.0
MAX_RETRY_S: Final = 300.0
LASTING_RETRY_S: Final = 600.0
# What a relay takes less of is asked for again at once, but with a breath between where it takes ever less.
SMALLER_RETRY_S: Final = 0.2
MAX_SMALLER: Final = 16
_SMALLER: Final = frozenset({Refusal.TOO_LARGE, Refusal.TOO_MANY_FILTERS, Refusal.KIND_REFUSED, Refusal.UNCLEAR})
FINAL_RETRY_S: Final = 86_400.0


def retry_wait(refusal: Refusal, failures: int) -> float:
    """Seconds until the same is asked for again, after so many refusals in a row before this one."""
    if refusal is Refusal.FORBIDDEN:
        return FINAL_RETRY_S
    if refusal in _SMALLER and failures < MAX_SMALLER:
        # Each time there is less, or one kind less, to ask for.
        return SMALLER_RETRY_S
    if refusal.asks_for_change and not failures:
        return 0.0
    return LASTING_RETRY_S if refusal.is_lasting else min(RETRY_S * 2.0 ** min(failures, 16), MAX_RETRY_S)
