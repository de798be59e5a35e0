"""What a first crawl of a relay has not had yet, so that nobody takes it for complete meanwhile. Pure."""

from collections.abc import Iterable, Iterator
from typing import Final

from pipeline.crawl.plan import Query
from pipeline.crawl.sweep import Purpose, sweep_key
from pipeline.crawl.sweeps import Sweeps

# Most first crawls are over by then (seconds since the connection); relays that bound requests by time take longer.
UNFINISHED_AFTER_S: Final = 60
TELL_EVERY_S: Final = 30.0


def unfinished(queries: Iterable[Query], sweeps: Sweeps, connected_at: int) -> Iterator[tuple[str, int, int]]:
    """Yield of `queries` those that were never had as a whole: the key, and from when to when (Unix seconds).

    `connected_at`: since when the relay is asked.
    """
    for query in queries:
        if sweeps.coverage.of(query) is None:
            sweep = sweeps.get(sweep_key(Purpose.INITIAL, query))
            begin = sweeps.reach.of_initial(query, connected_at)
            yield query.key, *((begin, connected_at) if sweep is None else sweep.window.span)
