"""The events of the benchmark: signed once by two processes, kept in a temporary folder in blocks of equal size.

Kind 1 of about 770 bytes by a few hundred authors, who are registered before the service starts: every event is
relevant through its author. A reply's `e` and `p` tags, every sixth with one of a few relay hints (as many as in real
notes). They are dated years back, so that no filter with times matches them: they are what a live subscription brings.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from tests.factories.events import Author, SignedEvent, authors
from tests.factories.workload import write_events

SEED = 20_240
AUTHORS = 400
BLOCK_EVENTS = 10_000
EVENT_BYTES = 770
_SIGNERS = 2
_FORMAT = 1
FIRST_CREATED_AT = 1_600_000_000
_HINTS = tuple(f"wss://relay-{number}.example.com" for number in range(24))


def people() -> list[Author]:
    """The authors of all events."""
    return authors(SEED, AUTHORS)


def blocks(events: int) -> list[Path]:
    """Files with at least so many different events, one JSON object per line, `BLOCK_EVENTS` each."""
    count = -(-events // BLOCK_EVENTS)
    missing = [number for number in range(count) if not _path(number).exists()]
    if missing:
        print(f"signing {len(missing) * BLOCK_EVENTS:,} events into {_directory()}, once …", flush=True)
        with ProcessPoolExecutor(_SIGNERS, get_context("spawn")) as pool:
            list(pool.map(_sign_block, missing))
    return [_path(number) for number in range(count)]


def dated(count: int, since: int, until: int, directory: Path) -> list[Path]:
    """Files with so many events, dated evenly between two times; signed each time and kept in `directory`."""
    firsts = range(0, count, BLOCK_EVENTS)
    paths = [directory / f"dated-{first}.jsonl" for first in firsts]
    times = [since + (until - since) * index // count for index in range(count)]
    parts = [times[first : first + BLOCK_EVENTS] for first in firsts]
    with ProcessPoolExecutor(_SIGNERS, get_context("spawn")) as pool:
        list(pool.map(_sign, paths, firsts, parts))
    return paths


def lines(paths: Sequence[Path], count: int) -> list[bytes]:
    """The first `count` events of these blocks, as JSON."""
    return list(islice(_lines(paths), count))


def _lines(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            for line in file:
                yield line[:-1]


def _directory() -> Path:
    directory = Path(tempfile.gettempdir()) / f"event-service-bench-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.stat().st_uid != os.getuid():
        raise PermissionError(f"{directory} belongs to somebody else")
    return directory


def _path(number: int) -> Path:
    return _directory() / f"events-{_FORMAT}-{SEED}-{AUTHORS}-{number:04}.jsonl"


def _sign_block(number: int) -> None:
    first = number * BLOCK_EVENTS
    _sign(_path(number), first, range(FIRST_CREATED_AT + first, FIRST_CREATED_AT + first + BLOCK_EVENTS))


def _sign(path: Path, first: int, times: Sequence[int]) -> None:
    everybody = people()
    write_events(path, (_event(everybody, index, at) for index, at in enumerate(times, first)))


def _event(everybody: Sequence[Author], index: int, created_at: int) -> SignedEvent:
    digest = hashlib.sha256(f"{SEED} {index}".encode())
    reference, mentioned = digest.hexdigest(), hashlib.sha256(digest.digest()).hexdigest()
    hint = _HINTS[index // 6 % len(_HINTS)] if index % 6 == 0 else ""
    author = everybody[int.from_bytes(digest.digest()[:4]) % AUTHORS]
    return author.sign(
        f"reply {index}: “quotes”, a newline\nand a link https://example.com/{index} ",
        created_at=created_at,
        tags=[("e", reference, hint, "reply"), ("p", mentioned)],
        size=EVENT_BYTES,
    )
