"""Members, plans and events for tests of the crawl; keys that fall where a test wants them."""

import random
from collections.abc import Iterable

from pipeline.crawl.sync.forms.forms import FORMS, FormVerdict, Reach
from pipeline.crawl.sync.members import Member, Members
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.planner import Planner
from pipeline.crawl.sync.query import Query, Subject
from pipeline.nostr.event import Event
from pipeline.store.relay_forms import FormCheck
from pipeline.store.wanted_authors import Change, WantedChanges


def key(number: int, *, bits: str = "") -> bytes:
    """A key of 32 bytes that begins with `bits`; distinct for distinct numbers below 2**200."""
    filled = bits.ljust(56, "0")
    return int(filled, 2).to_bytes(7) + number.to_bytes(25)


def member(public_key: bytes, *, since: int = 0, generation: int = 1) -> Member:
    return Member(public_key, since, generation)


def query(subject: Subject, keys: Iterable[bytes], prefix: str = "", *, generation: int = 1) -> Query:
    return Query(subject, prefix, Members.of(member(each, generation=generation) for each in sorted(keys)))


def event(
    created_at: int, author: bytes = bytes(32), kind: int = 1, number: int = 0, mentions: Iterable[bytes] = ()
) -> Event:
    """An event that is told apart by its time, author, kind and number; nothing in it is signed."""
    event_id = random.Random(f"{created_at} {author.hex()} {kind} {number}").randbytes(32)
    return Event(event_id, author, created_at, kind, [["p", each.hex()] for each in mentions], "", bytes(64))


def changes(generation: int, authors: Iterable[Change] = (), registered: Iterable[Change] = ()) -> WantedChanges:
    return WantedChanges(generation, tuple(authors), tuple(registered))


def audited(wall: int) -> list[FormCheck]:
    """What is stored of a relay whose forms were all found whole, and searched for controls, at `wall`."""
    names = [*(form.name for form in FORMS), *(f"search/{reach}" for reach in Reach), "shown/4", "shown/1059"]
    return [FormCheck(name, FormVerdict.WHOLE, wall, 0) for name in names]


def plan_for(
    authors: Iterable[bytes] = (), registered: Iterable[bytes] = (), *, generation: int = 1, since: int = 0
) -> Plan:
    """The plan when everybody became wanted at `since` (seconds) by one change."""
    planner = Planner()
    planner.apply(
        changes(
            generation,
            [Change(each, True, since * 1000, generation) for each in authors],
            [Change(each, True, since * 1000, generation) for each in registered],
        )
    )
    return planner.plan()
