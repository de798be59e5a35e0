"""`event-service users remove --forget`: the steps, beside a running service, and the report."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from pipeline.commands.output import number_of
from pipeline.process.clock import SystemClock, pause
from pipeline.store import forgetting, shares
from pipeline.store.database import Database, Tx
from pipeline.store.forgetting import EventWalk, FormerUser

STAYS: Final = (
    "stays here: public keys, ids of events (so that none is delivered twice), deletions and requests to vanish,"
    " contact lists of others, what is kept for other users, and deleted bytes in the file until they are overwritten\n"
    "stays elsewhere: what was delivered to the topic, a file or the target relay, logs, backups, and the relays"
)
# Between two steps the write lock is left to others for longer than one takes.
_REST: Final = 3.0
_T = TypeVar("_T")


@dataclass(slots=True)
class _Forgetter:
    """Forgets one user in transactions of a step each; stops where the user registers again."""

    database: Database
    public_key: bytes
    clock: SystemClock

    def step(self, work: Callable[[Tx, FormerUser, int], _T], otherwise: _T) -> _T:
        """Do `work` in a transaction of its own, unless the user is registered again."""
        began = self.clock.monotonic()
        with self.database.write(durable=True) as tx:
            user = forgetting.former_user(tx, self.public_key)
            done = otherwise if user is None else work(tx, user, self.clock.now_ms())
        pause(_REST * (self.clock.monotonic() - began))
        return done

    def release_followees(self) -> None:
        """Release all followees, who were wanted for the user's sake; the sweeper does the same."""
        while self.step(lambda tx, user, _: shares.let_go(tx, user.author, most=forgetting.ROWS), 0):
            pass

    def drop(self, walk: EventWalk) -> int:
        """Drop the rows of one table that are kept for the user alone; return their number."""
        dropped, after = 0, 0
        while True:
            with self.database.read() as tx:
                user = forgetting.former_user(tx, self.public_key)
                step = None if user is None else walk.look(tx, user, after)
            if step is None:
                return dropped
            if step.found:
                dropped += self.step(partial(_drop_again, walk=walk, after=after), 0)
            if step.last is None:
                return dropped
            after = step.last

    def forget_contacts(self) -> int:
        """Forget the contact list; return how many were followed."""
        followed = self.step(forgetting.forget_contacts, 0)
        while self.step(forgetting.work_off_contacts, False):
            pass
        return followed

    def forget_mentions(self) -> int:
        """Forget which relays the user mentions; return their number."""
        total = 0
        while some := self.step(lambda tx, user, _: forgetting.forget_mentions(tx, user), 0):
            total += some
        return total


def _drop_again(tx: Tx, user: FormerUser, now: int, *, walk: EventWalk, after: int) -> int:
    found = walk.look(tx, user, after).found
    walk.drop(tx, found, now)
    return len(found)


def forget(database: Database, public_key: bytes) -> Iterator[str]:
    """Forget what is kept for one who has left alone; yield lines that say what was dropped."""
    steps = _Forgetter(database, public_key, SystemClock())
    steps.release_followees()
    pending = steps.drop(forgetting.PENDING_ROWS)
    letters = steps.drop(forgetting.DEAD_LETTERS) + steps.drop(forgetting.UNSAVED_LETTERS)
    kept = steps.drop(forgetting.KEPT_EVENTS)
    followed = steps.forget_contacts()
    had_list = steps.step(lambda tx, user, _: forgetting.forget_relay_list(tx, user), False)
    relays = steps.forget_mentions()
    counts = (
        (kept, "event"), (pending, "outbox row"), (letters, "dead letter"), (followed, "followee"),
        (int(had_list), "relay list"), (relays, "relay mention"),
    )  # fmt: skip
    dropped = ", ".join(number_of(count, noun) for count, noun in counts if count)
    key = public_key.hex()
    yield f"{key} forgotten: {dropped or 'nothing was left'}"
    with database.read() as tx:
        user = forgetting.former_user(tx, public_key)
    if user is not None and user.is_followed:
        yield f"{key} is followed by another user, for whom events and relay list are kept"
