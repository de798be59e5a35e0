"""A Go service at work: `python -m tests.fakes.go_writer PATH wal|journal [SEED]`.

Saves and finishes events for ever, each in a transaction of its own, with as many checkpoints and spills of its cache
as it can; says `working` after the first ones. In every committed state each unfinished event has exactly one message.
"""

import contextlib
import random
import sys
from pathlib import Path

import apsw

from tests.factories.events import Author, SignedEvent, assemble
from tests.fakes.go_database import GoDatabase

PAYLOAD = 3000
UNFINISHED = 200


def event(rng: random.Random, author: Author, number: int) -> SignedEvent:
    """No valid event: signing would take most of the time."""
    event_id = f"{rng.getrandbits(256):064x}"
    return assemble(event_id, author.pubkey, 1_700_000_000 + number, 1, (), "x" * rng.randrange(PAYLOAD), "0" * 128)


def work(path: Path, mode: str, seed: int) -> None:
    rng, author = random.Random(seed), Author.from_seed(seed, 0)
    with GoDatabase(path, wal=mode == "wal") as database:
        database.connection.pragma("cache_size", 10)
        database.connection.pragma("wal_autocheckpoint", 30)
        waiting: list[SignedEvent] = []
        number = 0
        while True:
            number += 1
            with database.connection:
                for _ in range(rng.randrange(1, 40)):
                    waiting.append(event(rng, author, number))
                    database.save(waiting[-1])
            while len(waiting) > UNFINISHED:
                database.finish(waiting.pop(rng.randrange(len(waiting))), at=1_700_000_000)
            if number % 5 == 0:
                database.connection.execute("DELETE FROM events WHERE processed_at IS NOT NULL AND id % 3")
            if number % 7 == 0 and mode == "wal":
                # As when another checkpoint runs: SQLite says so at once and does not wait.
                with contextlib.suppress(apsw.BusyError):
                    database.connection.wal_checkpoint(mode=rng.choice((0, 1, 2, 3)))
            if number == 3:
                print("working", flush=True)


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1)
