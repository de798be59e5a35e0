"""Judges what a database of the Go service holds, and writes what can be taken into ours.

Ids of delivered events come early, so that a running service does not deliver them again. Contacts come before users,
so that each user's followees are known at once; pending events last, when the saver knows what is relevant. What the
delivered events say of contacts and relays is taken as if they were saved now: that service let an older contact
list win once it had forgotten the newer one, whose event may still be there.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar

from pipeline.errors import EventServiceError
from pipeline.go_import import target
from pipeline.go_import.source import GoContactList, GoDatabase, GoDone, GoUser, GoWaiting
from pipeline.go_import.target import ImportedContacts, ImportedUser, SeenId
from pipeline.nostr.address import InvalidAddress, parse_address
from pipeline.nostr.event import Event, InvalidEvent, event_from_json, verify
from pipeline.nostr.extract import Candidate, relay_candidates
from pipeline.nostr.extract import contacts as contacts_of
from pipeline.nostr.kinds import CONTACTS
from pipeline.process.clock import Clock, pause
from pipeline.store import inbox, relay_mentions
from pipeline.store.authors import Authors
from pipeline.store.database import Database, Tx
from pipeline.store.inbox import Arrival

# A running service waits this long for the write lock, and a little more for the row that ends a slice.
_SLICE_S: Final = 0.02
# Longer than the longest pause between two tries of a process that waits for the lock (3 ms), so that it gets it now.
_YIELD_S: Final = 0.005
_PREPARED_ROWS: Final = 500
# Later than this is no time of an event, here as for the crawlers.
_MAX_FUTURE_S: Final = 900
# The event came from no relay of ours.
_NO_RELAY: Final = 0

ProgressStep = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Opens a step of known length; the function that it gives is called with how much more is done."""

_Row = TypeVar("_Row")
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class _Done:
    """An event that was delivered, and what it says if it is at hand and signed."""

    seen: SeenId
    contacts: ImportedContacts | None = None
    relays: tuple[Candidate, ...] = ()


class _RowRefused(EventServiceError):
    """A row that cannot be taken; the text says why and is the same for all such rows."""


@dataclass(slots=True)
class ImportTally:
    """Rows of one kind: taken, already known, refused by reason; and notes for the operator."""

    name: str
    taken: int = 0
    known: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


class GoImporter:
    """One import. Each transaction is short; whatever interrupts them, another run takes what is missing."""

    def __init__(self, source: GoDatabase, database: Database, clock: Clock, step: ProgressStep) -> None:
        self._source = source
        self._database = database
        self._clock = clock
        self._step = step
        self._authors = Authors()
        self._users: frozenset[bytes] = frozenset()

    def run(self) -> Iterator[ImportTally]:
        """Import everything; yields a tally whenever one kind of rows is done."""
        source, counts = self._source, self._source.counts()
        self._users = frozenset(user.public_key.lower() for user in source.users() if user.public_key is not None)
        done, addresses = ImportTally("delivered events"), ImportTally("relays")
        yield self._take(addresses, counts.relays, source.relays(), _address, self._add_relay)

        def add_done(tx: Tx, item: _Done) -> bool:
            return self._add_done(tx, item, done)

        yield self._take(done, counts.done, source.done(), self._done, add_done)
        lists, users, waiting = (
            ImportTally("contact lists"),
            ImportTally("registered users"),
            ImportTally("pending events"),
        )

        def judge_list(row: GoContactList) -> ImportedContacts:
            return self._contacts(row, lists)

        yield self._take(lists, counts.contact_lists, source.contact_lists(), judge_list, self._replace_contacts)
        yield self._take(users, counts.users, source.users(), self._user, self._register)
        yield self._take(waiting, counts.waiting, source.waiting(), self._arrival, self._append)

    def _take(
        self,
        tally: ImportTally,
        total: int,
        rows: Iterator[_Row],
        judge: Callable[[_Row], _Item],
        write: Callable[[Tx, _Item], bool],
    ) -> ImportTally:
        """Judge rows outside of any transaction, and write what is left in slices."""
        with self._step(tally.name, total) as advance:
            while chunk := list(islice(rows, _PREPARED_ROWS)):
                self._write(tally, deque(_judged(tally, chunk, judge)), write)
                advance(len(chunk))
        return tally

    def _write(self, tally: ImportTally, items: deque[_Item], write: Callable[[Tx, _Item], bool]) -> None:
        while items:
            written: Counter[bool] = Counter()
            with self._database.write() as tx:
                began = self._clock.monotonic()
                while items and self._clock.monotonic() - began < _SLICE_S:
                    try:
                        written[write(tx, items.popleft())] += 1
                    except _RowRefused as refused:
                        tally.refused[str(refused)] += 1
            tally.taken += written[True]
            tally.known += written[False]
            pause(_YIELD_S)

    def _done(self, row: GoDone) -> _Done:
        event_id = _binary(row.event_id, "its id is not 64 hexadecimal digits")
        seen_at = self._past_ms(row.processed_at)
        try:
            event = event_from_json(row.payload or b"")
        except InvalidEvent:
            return _Done(SeenId(event_id, seen_at))
        if event.id != event_id:
            return _Done(SeenId(event_id, seen_at))
        seen = SeenId(event_id, seen_at, event.created_at, event.kind, event.pubkey)
        candidates = tuple(relay_candidates(event))
        if not (candidates or event.kind == CONTACTS) or not self._is_signed(event):
            return _Done(seen)
        return _Done(seen, _contact_list(event) if event.kind == CONTACTS else None, candidates)

    def _add_done(self, tx: Tx, item: _Done, tally: ImportTally) -> bool:
        now = self._clock.now_ms()
        if item.contacts is not None and target.replace_contacts(tx, self._authors, item.contacts, now):
            tally.notes["contact lists among them, each newer than the one before"] += 1
        author = item.seen.author
        if author is not None and item.relays:
            number, is_user = self._authors.intern(tx, author), author.hex().encode() in self._users
            for each in item.relays:
                relay_mentions.record_mention(
                    tx, each.address.spelling, source=each.source, author=number, is_user=is_user, now=now
                )
        return target.add_seen(tx, self._authors, [item.seen]) == 1

    def _add_relay(self, tx: Tx, url: str) -> bool:
        return target.add_relay(tx, url, self._clock.now_ms())

    def _contacts(self, row: GoContactList, tally: ImportTally) -> ImportedContacts:
        """Return a list with its time, if its own event is still there; else whom it followed, without one."""
        follower = _binary(row.follower, "its follower is no public key")
        event = self._own_list(row, follower)
        if event is not None:
            tally.notes["with the time of their event"] += 1
            return _contact_list(event)
        keys = [_binary_or_none(key) for key in row.followees]
        followees = frozenset(key for key in keys if key is not None)
        if not followees:
            raise _RowRefused("neither its event nor any followee is there")
        tally.notes["without a time, their event being gone or not theirs: any other list replaces them"] += 1
        if None in keys:
            tally.notes["followees left out, being no public keys"] += keys.count(None)
        return ImportedContacts(follower, followees, None, None)

    def _own_list(self, row: GoContactList, follower: bytes) -> Event | None:
        """Return the event that the list is said to come from, if it does.

        Its own tags count then, not the followees beside it, which may be those of another list: what follows from a
        signed event cannot be wrong for longer than until a newer one comes.
        """
        try:
            event = event_from_json(row.payload or b"")
        except InvalidEvent:
            return None
        is_theirs = event.kind == CONTACTS and event.pubkey == follower
        return event if is_theirs and self._is_signed(event) else None

    def _is_signed(self, event: Event) -> bool:
        """Return True if its author says so, and not of the future."""
        try:
            verify(event)
        except InvalidEvent:
            return False
        return event.created_at <= self._clock.now_ms() // 1000 + _MAX_FUTURE_S

    def _replace_contacts(self, tx: Tx, item: ImportedContacts) -> bool:
        return target.replace_contacts(tx, self._authors, item, self._clock.now_ms())

    def _user(self, row: GoUser) -> ImportedUser:
        public_key = _binary(row.public_key, "the public key is not 64 hexadecimal digits")
        return ImportedUser(public_key, self._past_ms(row.created_at), self._past_ms(row.updated_at))

    def _register(self, tx: Tx, user: ImportedUser) -> bool:
        if target.was_removed(tx, user.public_key):
            raise _RowRefused("the registration was ended here")
        return target.register(tx, user, self._clock.now_ms())

    def _arrival(self, row: GoWaiting) -> Arrival:
        event_id = _binary(row.event_id, "the message names no event")
        if not row.exists:
            raise _RowRefused("the event is missing")
        try:
            event = event_from_json(row.payload or b"")
            if event.id != event_id:
                raise _RowRefused("the payload is another event's")
            verify(event)
        except InvalidEvent as error:
            raise _RowRefused(str(error)) from None
        return Arrival(event.id, event.to_json(), _NO_RELAY, self._past_ms(row.saved_at), event.created_at)

    def _append(self, tx: Tx, item: Arrival) -> bool:
        return bool(inbox.append(tx, [item]))

    def _past_ms(self, seconds: object) -> int:
        """Return a time in seconds as ms; now for what is no time, or not in the past."""
        now = self._clock.now_ms()
        return min(seconds * 1000, now) if type(seconds) is int and seconds > 0 else now


def _judged(tally: ImportTally, rows: Iterable[_Row], judge: Callable[[_Row], _Item]) -> Iterator[_Item]:
    for row in rows:
        try:
            yield judge(row)
        except _RowRefused as refused:
            tally.refused[str(refused)] += 1


def _contact_list(event: Event) -> ImportedContacts:
    return ImportedContacts(event.pubkey, frozenset(contacts_of(event)), event.id, event.created_at)


def _address(text: bytes | None) -> str:
    try:
        return parse_address((text or b"").decode()).url
    except UnicodeDecodeError:
        raise _RowRefused("the address is no UTF-8 text") from None
    except InvalidAddress as error:
        raise _RowRefused(str(error)) from None


def _binary(text: bytes | None, why_not: str) -> bytes:
    data = _binary_or_none(text)
    if data is None:
        raise _RowRefused(why_not)
    return data


def _binary_or_none(text: bytes | None) -> bytes | None:
    """Return the 32 bytes of 64 hexadecimal digits in either case."""
    if text is None or len(text) != 64:
        return None
    try:
        data = bytes.fromhex(text.decode())
    except ValueError:
        return None
    return data if len(data) == 32 else None
