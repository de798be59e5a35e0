"""A process of the store's integration tests: does what it is told on standard input and says what came of it.

Commands: `open PATH` migrates a file and says `opened NAMES` or `refused WHY`; `work PATH LEASE_MS SEED` takes from the
inbox until told to `stop` or killed; `append PATH FIRST COUNT SEED` fills it.
"""

import random
import sys
import threading
from pathlib import Path

from pipeline.errors import CannotStart
from pipeline.process.clock import SystemClock
from pipeline.store import events, inbox
from pipeline.store.database import Database, Tx
from pipeline.store.events import Accepted
from pipeline.store.inbox import Arrival, InboxRow
from pipeline.store.lease import Postponed
from pipeline.store.schema import open_database

clock = SystemClock()
stopping = threading.Event()


def say(*words: object) -> None:
    print(*words, flush=True)


def open_file(path: str) -> None:
    try:
        database = Database.open(Path(path))
    except CannotStart as error:
        say("refused", error)
        return
    database.close()
    try:
        open_database(Path(path), clock).close()
    except CannotStart as error:
        say("refused", error)
        return
    say("opened")


def append(path: str, first: str, count: str, seed: str) -> None:
    rng = random.Random(int(seed))
    numbers = list(range(int(first), int(first) + int(count)))
    with open_database(Path(path), clock) as database:
        while numbers:
            batch, numbers = numbers[:20], numbers[20:]
            # Every second batch comes again, as events do from several relays.
            for _ in range(rng.randrange(1, 3)):
                with database.write() as tx:
                    inbox.append(tx, [Arrival(number.to_bytes(32), b"{}", 1, clock.now_ms(), 1) for number in batch])
    say("appended")


def work(path: str, lease_ms: str, seed: str) -> None:
    rng = random.Random(int(seed))
    with open_database(Path(path), clock) as database:
        say("working")
        while not stopping.is_set():
            if not turn(database, int(lease_ms), rng):
                stopping.wait(0.005)
    say("stopped")


def turn(database: Database, lease_ms: int, rng: random.Random) -> bool:
    """Claim a few rows; finish most of them in two transactions, give some back, and let some leases run out."""
    with database.write() as tx:
        rows = inbox.claim(tx, now=clock.now_ms(), lease=lease_ms, limit=rng.randrange(1, 9))
    for part in (rows[::2], rows[1::2]):
        if rng.random() < 0.1:
            continue
        with database.write() as tx:
            for row in part:
                if rng.random() < 0.2:
                    inbox.queue.nack(tx, [Postponed(row.receipt, clock.now_ms() + rng.randrange(20))])
                elif inbox.queue.ack(tx, [row.receipt]):
                    finish(tx, row)
            # Long enough for a kill to fall between the steps and the commit.
            stopping.wait(rng.choice((0, 0, 0.004)))
    return bool(rows)


def finish(tx: Tx, row: InboxRow) -> None:
    """What the saver does; `kind` notes how often the row was claimed."""
    accepted = Accepted(row.receipt.seq, row.event_id, 0, row.receipt.claims, 0, row.raw, 1, row.received_at, 0)
    if not events.accept(tx, [accepted], clock.now_ms()):
        raise RuntimeError(f"{row.event_id.hex()} was finished twice")


def main() -> None:
    say("ready")
    for line in sys.stdin:
        match line.split():
            case ["open", path]:
                open_file(path)
            case ["append", path, first, count, seed]:
                append(path, first, count, seed)
            case ["work", path, lease_ms, seed]:
                threading.Thread(target=work, args=(path, lease_ms, seed), daemon=True).start()
            case ["stop"]:
                stopping.set()
            case _:
                raise ValueError(line)


if __name__ == "__main__":
    main()
