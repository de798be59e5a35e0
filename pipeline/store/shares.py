"""How many followees of each user are wanted, where all of them together would be more than the bound.

Below `FREE` of `EVENTS_MAX_WANTED_AUTHORS` there is no other bound. Above it a user's share is the newest `MAX_SHARE`
followees. Above `PRESSED` the `level` of shares sinks until enough users yield: the largest first, since each has its
share whole if that is below the level, and new users at a tenth of the level. Followees beyond the share wait: they
are rows of `contacts` with `waiting` set, which are no reason to want anyone. So are those of all who are no users.

A user who leaves lets go of the followees step by step: until none is wanted for their sake they hold the others.

| wanted authors | a list that grows | the sweeper |
|---|---|---|
| below `FREE` | is wanted whole | lets waiting followees in, the smallest users first, and raises the level |
| to `PRESSED` | up to the share | lets waiting followees in up to the share |
| above | up to the share, never beyond `FULL` | takes what is above shares away until `RELIEVED`, or lowers the level |

Between `FREE` and `PRESSED` nothing is taken away but for users who wait below their share, and nothing beyond a share
is given, so that it settles.
"""

from dataclasses import dataclass, replace
from typing import Final

from pipeline.store import contact_slices, wanted_authors
from pipeline.store.contact_slices import ContactSlice
from pipeline.store.database import Row, Tx

FREE: Final = 0.80
PRESSED: Final = 0.95
# So much is left when users have yielded; well above `FREE`, where all would be let in again.
RELIEVED: Final = 0.90
# What is above is for users alone: they are wanted in any case.
FULL: Final = 0.99
MAX_SHARE: Final = 10_000
# Many keys registered today yield before users of long standing.
NEW_USER_MS: Final = 7 * 86_400_000
NEW_USER_FACTOR: Final = 10
MAX_LEVEL: Final = MAX_SHARE * NEW_USER_FACTOR
MIN_LEVEL: Final = 100
# Each follow that changes takes some 20 µs of the write lock, and looking through a long list 10 ms.
EDGES_PER_STEP: Final = 500
_USERS_LOOKED_AT: Final = 20

BUDGET = "SELECT authors, max_authors, level FROM wanted_budget"
SET_BOUND = "UPDATE wanted_budget SET max_authors = ?1, level = ?2 WHERE max_authors <> ?1"
SET_LEVEL = "UPDATE wanted_budget SET level = ?"
HOLDING = """
SELECT author, followees, waiting, created_at, removed_at IS NOT NULL FROM monitored
 WHERE author = ? AND (removed_at IS NULL OR followees > waiting)
"""
WAITING_USERS = """
SELECT author, followees, waiting, created_at FROM monitored WHERE waiting > 0 AND removed_at IS NULL
"""
HOLDERS = """
SELECT author, followees, waiting, created_at FROM monitored WHERE removed_at IS NULL AND followees - waiting > ?
"""
LEAVING = "SELECT author FROM monitored WHERE removed_at IS NOT NULL AND followees > waiting LIMIT ?"
WAITING = "SELECT count(*), coalesce(sum(waiting), 0) FROM monitored WHERE waiting > 0 AND removed_at IS NULL"
NEWEST_FIRST = """
SELECT followee, waiting FROM contacts WHERE follower = ?1 AND followee <> ?1 ORDER BY place DESC, followee DESC
"""
NEWEST_WAITING = """
SELECT followee FROM contacts WHERE follower = ?1 AND followee <> ?1 AND waiting = 1
 ORDER BY place DESC, followee DESC LIMIT ?2
"""
SET_WAITING = "UPDATE contacts SET waiting = ? WHERE follower = ? AND followee = ?"
# Rows that were written before those of others than users had `waiting` set.
ALL_WAIT = "UPDATE contacts SET waiting = 1 WHERE follower = ?1 AND followee <> ?1 AND waiting = 0"
COUNT_ALL = """
UPDATE monitored SET (followees, waiting) = (
  SELECT count(*), coalesce(sum(waiting), 0) FROM contacts WHERE follower = ?1 AND followee <> ?1
) WHERE author = ?1
"""
HELD = "SELECT followee FROM contacts WHERE follower = ?1 AND followee <> ?1 AND waiting = 0 LIMIT ?2"
PUT = "UPDATE monitored SET followees = ?2, waiting = ?3 WHERE author = ?1"


@dataclass(frozen=True, slots=True)
class Budget:
    """How many authors are wanted, how many may be (0: any number), and the level of shares."""

    authors: int
    max_authors: int
    level: int

    @property
    def free(self) -> int:
        """Return how many more may be wanted before shares count."""
        return max(0, int(FREE * self.max_authors) - self.authors)

    @property
    def left(self) -> int:
        """Return how many more followees may be wanted at all."""
        return max(0, int(FULL * self.max_authors) - self.authors)

    @property
    def is_pressed(self) -> bool:
        """Return True if users have to yield."""
        return self.max_authors > 0 and self.authors >= PRESSED * self.max_authors


@dataclass(frozen=True, slots=True)
class Holding:
    """A user's followees, and how many of them wait; `created_at` (ms) is the registration's."""

    author: int
    followees: int
    waiting: int
    created_at: int
    is_leaving: bool = False
    """True if the registration has ended, and followees are still wanted for its sake."""

    @property
    def admitted(self) -> int:
        """Return how many are wanted for the user's sake."""
        return self.followees - self.waiting

    def changed(self, followees: int, waiting: int) -> "Holding":
        """Return the same with so many more."""
        return replace(self, followees=self.followees + followees, waiting=self.waiting + waiting)

    def factor(self, now: int) -> int:
        """Return how many times as much the user yields as one who has been here for long."""
        return NEW_USER_FACTOR if now - self.created_at < NEW_USER_MS else 1


@dataclass(frozen=True, slots=True)
class Waiting:
    """Users who have followees that wait, and how many these are."""

    users: int
    followees: int


NO_BUDGET: Final = Budget(0, 0, 0)
NONE_WAITING: Final = Waiting(0, 0)


@dataclass(frozen=True, slots=True)
class Step:
    """What the sweeper does next: let `author` have so many followees, or set the level where `author` is None."""

    author: int | None
    number: int
    leaves: bool = False
    """True if the author was about to leave."""


def set_bound(tx: Tx, max_authors: int) -> None:
    """Set the most authors that are wanted; followees that are too many yield step by step."""
    tx.execute(SET_BOUND, (max_authors, MAX_LEVEL))


def budget(tx: Tx) -> Budget:
    """Return how much is wanted and may be."""
    authors, max_authors, level = tx.execute(BUDGET).fetchone() or (0, 0, 0)
    return Budget(authors, max_authors, level)


def waiting(tx: Tx) -> Waiting:
    """Return how many followees wait."""
    users, followees = tx.execute(WAITING).fetchone() or (0, 0)
    return Waiting(users, followees)


def share(user: Holding, level: int, now: int) -> int:
    """Return how many followees a user has before others who have less."""
    return min(MAX_SHARE, level // user.factor(now))


def allowance(user: Holding, state: Budget, now: int) -> int:
    """Return how many of a user's followees may be wanted now; no fewer than are."""
    if not state.max_authors or user.waiting <= state.free:
        return user.followees
    by_share = min(share(user, state.level, now), user.admitted + state.left)
    return min(user.followees, max(user.admitted + state.free, by_share))


def holding(tx: Tx, author: int) -> Holding | None:
    """Return what a user holds, or one who leaves; None for all others."""
    row = tx.execute(HOLDING, (author,)).fetchone()
    return None if row is None else Holding(row[0], row[1], row[2], row[3], is_leaving=bool(row[4]))


def put(tx: Tx, user: Holding) -> None:
    """Write down what a user holds; one who leaves and holds nothing more has left."""
    has_left = user.is_leaving and not user.admitted
    tx.execute(PUT, (user.author, *((0, 0) if has_left else (user.followees, user.waiting))))


def has_room(tx: Tx, user: Holding, more: int, now: int) -> bool:
    """Return True if so many more followees of a user may be wanted at once."""
    grown = user.changed(more, more)
    return not more or allowance(grown, budget(tx), now) >= grown.followees - user.waiting


def fill(tx: Tx, author: int, since: int, now: int, *, most: int | None = None) -> None:
    """Let the newest followees of a user be wanted, as many as may be; `most` of them if that is less."""
    user = holding(tx, author)
    if user is not None and not user.is_leaving:
        fit(tx, author, allowance(user, budget(tx), now), since, most=most)


def admit_all(tx: Tx, author: int, now: int) -> None:
    """Want a user who has just registered and the newest followees, as many as may be; the others wait.

    Of thousands a part: what is left is done in slices.
    """
    wanted_authors.acquire(tx, [author], now)
    user = holding(tx, author)
    if user is None:
        return
    if not user.admitted:
        # Else they come back before they have left.
        tx.execute(ALL_WAIT, (author,))
    tx.execute(COUNT_ALL, (author,))
    user = holding(tx, author) or user
    allowed = allowance(user, budget(tx), now)
    fit(tx, author, allowed, now, most=contact_slices.SIZE)
    left = range(contact_slices.SIZE, allowed, contact_slices.SIZE)
    contact_slices.put(tx, (ContactSlice(author, now, (), (), ()) for _ in left))


def leave(tx: Tx, author: int) -> None:
    """Take back that one whose registration has just ended is wanted, and the followees: of thousands a part.

    What is left is done by `take_step`.
    """
    wanted_authors.release(tx, [author])
    let_go(tx, author, most=contact_slices.SIZE)


def let_go(tx: Tx, author: int, *, most: int) -> int:
    """Let `most` followees of one who leaves be wanted no longer for their sake; return how many there were."""
    user = holding(tx, author)
    if user is None:
        return 0
    held = [int(followee) for (followee,) in tx.execute(HELD, (author, most))]
    tx.executemany(SET_WAITING, ((1, author, followee) for followee in held))
    wanted_authors.release(tx, held)
    put(tx, user.changed(0, len(held)))
    return len(held)


def fit(tx: Tx, author: int, number: int, since: int, *, most: int | None = None) -> int:
    """Let the newest `number` of a user's followees be wanted (from `since` on, in ms), and the others wait.

    Changes at most `most` of each; return how many follows changed.
    """
    user = holding(tx, author)
    if user is not None and number >= user.followees:
        return _admit(tx, user, since, user.waiting if most is None else most)
    rows: list[Row] = tx.execute(NEWEST_FIRST, (author,)).fetchall()
    admitted = [followee for followee, waits in rows[:number] if waits][:most]
    yielding = [followee for followee, waits in reversed(rows[number:]) if not waits][:most]
    tx.executemany(SET_WAITING, ((0, author, followee) for followee in admitted))
    tx.executemany(SET_WAITING, ((1, author, followee) for followee in yielding))
    wanted_authors.release(tx, yielding)
    wanted_authors.acquire(tx, admitted, since, near=wanted_authors.NEAR - sum(not waits for _, waits in rows))
    tx.execute(PUT, (author, len(rows), sum(waits for _, waits in rows) - len(admitted) + len(yielding)))
    return len(admitted) + len(yielding)


def _admit(tx: Tx, user: Holding, since: int, most: int) -> int:
    """Let the newest of those who wait be wanted, where all may be: without looking through the list."""
    admitted = [int(followee) for (followee,) in tx.execute(NEWEST_WAITING, (user.author, most))]
    tx.executemany(SET_WAITING, ((0, user.author, followee) for followee in admitted))
    wanted_authors.acquire(tx, admitted, since, near=wanted_authors.NEAR - user.admitted)
    put(tx, user.changed(0, -len(admitted)))
    return len(admitted)


def next_steps(tx: Tx, now: int) -> list[Step]:
    """Return what to do so that shares are kept, a little of it; nothing if all is as it should be.

    First for those who leave: that makes room.
    """
    leaving = [Step(author, 0, leaves=True) for (author,) in tx.execute(LEAVING, (_USERS_LOOKED_AT,))]
    return [*leaving, *_steps_of_users(tx, now)]


def _steps_of_users(tx: Tx, now: int) -> list[Step]:
    state = budget(tx)
    if state.is_pressed:
        return _yielding(tx, state, now)
    is_free = not state.max_authors or state.free > 0
    users = [Holding(*row) for row in tx.execute(WAITING_USERS)]
    due = {user: (user.followees if is_free else share(user, state.level, now)) - user.admitted for user in users}
    room = _room(state)
    if room <= 0 and any(number > 0 for number in due.values()):
        return _yielding(tx, state, now)
    steps = [Step(None, MAX_LEVEL)] if state.free and state.level < MAX_LEVEL else []
    for user in sorted(users, key=lambda user: user.admitted * user.factor(now)):
        number = min(due[user], EDGES_PER_STEP, room)
        if number > 0 and len(steps) < _USERS_LOOKED_AT:
            steps.append(Step(user.author, user.admitted + number))
            room -= number
    return steps


def take_step(tx: Tx, step: Step, now: int) -> int:
    """Do a step; return how many follows changed."""
    if step.author is None:
        tx.execute(SET_LEVEL, (step.number,))
        return 0
    user = holding(tx, step.author)
    if user is None or user.is_leaving is not step.leaves:
        # The user has left since, or come back.
        return 0
    if step.leaves:
        return let_go(tx, step.author, most=EDGES_PER_STEP)
    return fit(tx, step.author, step.number, now, most=EDGES_PER_STEP)


def _room(state: Budget) -> int:
    """Return how many followees may be let in before users have to yield."""
    if not state.max_authors:
        return EDGES_PER_STEP * _USERS_LOOKED_AT
    return state.free or int(PRESSED * state.max_authors) - 1 - state.authors


def _yielding(tx: Tx, state: Budget, now: int) -> list[Step]:
    least = min(MAX_SHARE, state.level // NEW_USER_FACTOR)
    users = [Holding(*row) for row in tx.execute(HOLDERS, (least,))]
    over = {user: user.admitted - share(user, state.level, now) for user in users}
    too_large = sorted((user for user in users if over[user] > 0), key=lambda user: -over[user])
    steps: list[Step] = []
    surplus = state.authors - int(RELIEVED * state.max_authors)
    for user in too_large[:_USERS_LOOKED_AT]:
        number = min(over[user], EDGES_PER_STEP, surplus)
        surplus -= number
        steps += [Step(user.author, user.admitted - number)] if number > 0 else []
    if steps:
        return steps
    return [Step(None, max(MIN_LEVEL, state.level * 4 // 5))] if state.level > MIN_LEVEL else []
