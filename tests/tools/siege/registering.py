"""Registrations of strangers: with invented followees, again and again, with wrong dates, for others."""

import hashlib
from time import monotonic, time

from tests.factories.events import Author, SignedEvent
from tests.tools.siege.attacks import attack
from tests.tools.siege.siege import Siege
from tests.tools.siege.watch import number

_REGISTERED = """
SELECT count(*) FROM monitored JOIN authors ON authors.id = author
 WHERE removed_at IS NULL AND hex(public_key) = upper('{key}')
"""
_BURST = 200
"""Registrations that one client may send at once with the default of EVENTS_MAX_REGISTRATIONS_PER_MINUTE."""
_REFILL_S = 3.0
"""One more of them comes back in so many seconds."""


def _invented(name: str, count: int) -> list[str]:
    return [hashlib.sha256(f"{name} {each}".encode()).hexdigest() for each in range(count)]


@attack(
    "invented-followees",
    "20 registrations from one address, each with a list of 13,900 invented keys; 200,000 may be wanted",
    disk_mib=256,
    EVENTS_MAX_WANTED_AUTHORS="200000",
)
def _invented_followees(siege: Siege) -> None:
    address, users = siege.visitor(), siege.size(5, 20)
    with siege.strangers_relay() as relay:
        siege.begin()
        for _ in range(users):
            author = siege.stranger()
            keys = _invented(author.pubkey, siege.size(3_000, 13_900))
            relay.stream([author.contact_list(keys, int(time()) - 5)])
            siege.register(author.registration(int(time()), [relay.url]), visitor=address)
            siege.wait(siege.seconds / 2 / users)
        siege.wait()


@attack("restless-list", "a contact list of 10,000 keys, then one of a single key that changes every 2 s")
def _restless_list(siege: Siege) -> None:
    at, changes = int(time()) - 1_000, 0
    with siege.strangers_relay() as relay:
        author, restless = (siege.name_by_user(relay.url) for _ in range(2))
        relay.stream([author.contact_list(_invented("many", siege.size(1_000, 10_000)), at)])
        siege.begin()
        while siege.is_on:
            changes += 1
            relay.stream([restless.contact_list(_invented(f"one {changes}", 1), at + changes)])
            siege.wait(2.0)
    siege.notes["changes"] = str(changes)


@attack("dates", "registrations and deletions that are backdated, dated ahead, replayed, or of others")
def _dates(siege: Siege) -> None:
    now = int(time())
    ahead, author, thief = siege.stranger(), siege.stranger(), siege.stranger()
    _expect(siege, False, "one dated ahead", ahead.registration(now + 4_000))
    first, second = author.registration(now - 100), author.registration(now - 50)
    _expect(siege, True, "the first", first)
    _expect(siege, True, "the same again", first)
    _expect(siege, True, "a newer one", second)
    _expect(siege, False, "one that was replaced", first)
    theft = thief.sign(kind=5, created_at=now, tags=[("e", second.id), ("p", author.pubkey)])
    # Accepted or not: whoever is not registered has left already.
    siege.register(theft, visitor=siege.visitor())
    siege.world.tell([theft])
    siege.require(_is_registered(siege, author), "nobody ends a registration of others")
    _expect(siege, True, "their own deletion", author.sign(kind=5, created_at=now, tags=[("e", second.id)]))
    siege.require(not _is_registered(siege, author), "whoever leaves has left")
    replayed = 0
    while siege.is_on and replayed < siege.size(20, 400):
        _expect(siege, False, "one that was taken back", (first, second)[replayed % 2])
        replayed += 1
    siege.require(not _is_registered(siege, author), "no replay registers who has left")
    siege.wait()


def _expect(siege: Siege, is_accepted: bool, what: str, event: SignedEvent) -> None:
    accepted, reason = siege.register(event, visitor=siege.visitor())
    verb = "accepted" if is_accepted else "refused"
    siege.require(accepted == is_accepted, f"{what} is {verb}: {accepted} {reason}")


def _is_registered(siege: Siege, author: Author) -> bool:
    return number(siege.service, _REGISTERED.format(key=author.pubkey)) == 1


@attack("claimed-addresses", "a visitor registers 260 keys and claims a new address for each in X-Forwarded-For")
def _claimed_addresses(siege: Siege) -> None:
    visitor, accepted = siege.visitor(), 0
    tries, began = siege.size(205, 260), monotonic()
    for each in range(tries):
        event = siege.stranger().registration(int(time()))
        accepted += siege.register(event, visitor, claims=f"13.0.{each // 250}.{each % 250 + 1}")[0]
    siege.notes["registrations of one visitor"] = f"{accepted} of {tries} accepted"
    # A few come back while they are sent.
    most = _BURST + 1 + (monotonic() - began) / _REFILL_S
    siege.require(accepted <= most, f"whatever a visitor claims, the bound is theirs: {accepted} were accepted")
    for claims in ("127.0.0.1", "::1", "localhost"):
        headers = {"X-Forwarded-For": claims, "Host": "localhost", "Accept": "text/html"}
        _, body = siege.service.get("/", headers)
        siege.require("Dead letters" not in body, f"the page is not shown to who claims to be {claims}")
    siege.wait()
