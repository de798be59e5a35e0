"""Relays that strangers name: too many of them, others' machines among them, ports that are no relays'."""

from contextlib import ExitStack
from time import time

from tests.factories.events import Author, SignedEvent
from tests.fakes.tcp import TcpServer, hang_up
from tests.tools.siege.attacks import attack
from tests.tools.siege.names import literal, loopback, named
from tests.tools.siege.siege import Siege
from tests.tools.siege.watch import number, wait_connected

_NEWCOMER_S = 90.0
_NO_ONE = 9
"""A port where nothing listens."""
_ROWS = "SELECT count(*) FROM relays"
_BY_ONE_KEY = 1_100
"""Rows that one key may bring about: twice its bound until the sweeper has been there, and those of the world."""
_AT_ONE_LISTENER = 60
_PARTS = 10
_SERVICES = (3306, 5432, 6379, 9200, 11211, 27017)
_TOUCHED_PORTS = 10
"""As many relays as one address may have that have proven nothing."""


def relay_list(author: Author, urls: list[str], number: int = 0) -> SignedEvent:
    """Return a relay list, the later the higher its number."""
    return author.sign(kind=10002, created_at=int(time()) - 10_000 + number, tags=[("r", url) for url in urls])


@attack("relay-lists", "a registered key names 62,000 addresses in 620 relay lists; a new honest relay must be learned")
def _relay_lists(siege: Siege) -> None:
    net, lists = siege.network(), siege.size(60, 620)
    with siege.strangers_relay() as relay:
        author = siege.name_by_user(relay.url)
        siege.begin()
        for part in range(_PARTS):
            events = [
                relay_list(author, _invented(net, number), number)
                for number in range(part * lists // _PARTS, (part + 1) * lists // _PARTS)
            ]
            relay.stream(events)
            siege.wait(siege.seconds / 2 / _PARTS)
        newcomer = siege.world.new_relay()
        siege.world.tell([siege.world.users[1].sign(kind=10002, created_at=int(time()), tags=[("r", newcomer.url)])])
        siege.wait()
        missing = wait_connected(siege.service, {newcomer.key}, _NEWCOMER_S)
        siege.require(not missing, "a relay that a user names is learned")
    rows = number(siege.service, _ROWS)
    siege.notes["relay rows"] = str(rows)
    siege.require(rows < _BY_ONE_KEY, f"one key fills no table: {rows} relays are known")


def _invented(net: int, part: int) -> list[str]:
    """A hundred addresses where nobody listens."""
    numbers = range(100 * part, 100 * part + 100)
    return [named(loopback(net, each % 62_000), _NO_ONE, f"d{each}.example") for each in numbers]


@attack("crowd", "a key and 15 others name 300 answering relays; 40 relays may be dialled", EVENTS_MAX_RELAYS="40")
def _crowd(siege: Siege) -> None:
    if not siege.is_short:
        # In its first minute the service cannot tell those that bring events; there is room for the few of a short run.
        siege.let_relays_prove_themselves()
    with siege.hostile("quiet", names=300) as relays:
        strangers = [siege.stranger() for _ in range(15)]
        for number in range(3):
            for author in strangers:
                siege.world.tell([relay_list(author, relays.urls[number::3], number)])
        for number in range(siege.size(20, 205)):
            if number % 70 == 0:
                author = siege.name_by_user(*relays.urls[number % 200 :][:100])
            siege.world.tell([relay_list(author, relays.urls[number % 200 :][:100], number)])
        siege.begin()
        siege.wait()
        siege.notes["hostile relays"] = f"{relays.counts()['open']} connected, {relays.counts()['dials']} dials"


@attack("victim", "one listener is named 400 times: under 200 domains, as a host with 100 paths, by 100 subdomains")
def _victim(siege: Siege) -> None:
    with siege.hostile("quiet") as victim:
        address, port = victim.addresses[0], victim.port
        urls = [
            *(named(address, port, f"victim{each}.example") for each in range(200)),
            *(literal(address, port, f"/{each}") for each in range(100)),
            *(named(address, port, "victim.example", f"r{each}") for each in range(100)),
        ]
        for start in range(0, len(urls), 100):
            siege.name_by_user(*urls[start : start + 100])
        siege.begin()
        siege.wait()
        dials = victim.counts()["dials"]
        siege.notes["dials of the victim"] = f"{dials} in {siege.seconds:.0f} s"
        siege.require(dials <= _AT_ONE_LISTENER, f"the dials of one listener are bounded: {dials}")


@attack("ports", "a key names 100 ports of one machine, each under a domain of its own, those of databases among them")
def _ports(siege: Siege) -> None:
    with ExitStack() as stack:
        address = loopback(siege.network(), 0)
        services = [stack.enter_context(TcpServer(hang_up, address=address, port=port)) for port in _SERVICES]
        others = [stack.enter_context(TcpServer(hang_up, address=address)) for _ in range(100 - len(services))]
        listeners = [*services, *others]
        urls = [named(address, each.port, f"scanned{index}.example") for index, each in enumerate(listeners)]
        siege.name_by_user(*urls)
        siege.begin()
        siege.wait()
        touched = sum(each.accepted > 0 for each in listeners)
        siege.notes["ports"] = f"{touched} of {len(listeners)} were dialled"
        siege.require(touched <= _TOUCHED_PORTS, f"nobody scans ports through the service: {touched} were dialled")
        dialled = [each.port for each in services if each.accepted]
        siege.require(not dialled, f"no port of another service is dialled: {dialled}")
