"""What a browser asks the status page for: its query, and whether it may see the page at all."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlencode

from pipeline.nostr.nip19 import InvalidEncoding, parse_event_id, parse_public_key


class Heading(NamedTuple):
    """A column's heading, and what it holds in words."""

    text: str
    explanation: str


COLUMNS: Final = {
    "address": Heading("Relay", "Address"),
    "state": Heading("State", "State of the connection"),
    "asked": Heading("Asked", "By author (query), or for everything (whole)"),
    "behind": Heading("Behind", "Time since the oldest cursor: everything up to it has been fetched"),
    "novel": Heading("First seen", "Events that this relay brought before any other; they count for less as they age"),
    "subscriptions": Heading("Subs", "Open live subscriptions"),
    "gaps": Heading("Gaps", "Events that the relay holds but does not return, by reason"),
    "error": Heading("Last error", "The last error of the relay or connection"),
}
"""Sortable columns of the table of relays."""
_MOST_FIRST: Final = frozenset({"behind", "novel", "subscriptions", "gaps"})
_MAX_TEXT: Final = 1_000
TOKEN_COOKIE: Final = "event-service-token"  # noqa: S105  # its name


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A query: text to find relays by, the column to sort them by, the event to trace, the user to look at."""

    search: str = ""
    sort: str = "novel"
    descending: bool = True
    event: str = ""
    event_id: bytes | None = None
    user: str = ""
    user_key: bytes | None = None
    page: int = 1
    """Which page of the table of relays, from 1 on."""
    token: str = ""
    """What opens the page, where it is not open to everyone."""

    def finds(self, *texts: str) -> bool:
        """Return True if every word searched for stands in one of `texts`."""
        everything = " ".join(texts).lower()
        return all(word in everything for word in self.search.lower().split())

    def sorted_by(self, column: str) -> str:
        """Return the link that sorts by `column`, the other way round if it does so already."""
        descending = not self.descending if column == self.sort else column in _MOST_FIRST
        return self._link(f"{'-' if descending else ''}{column}", 1)

    def at_page(self, page: int) -> str:
        """Return the link to another page of the table."""
        return self._link(self.order, page)

    def _link(self, order: str, page: int) -> str:
        query = {
            "q": self.search, "sort": order, "event": self.event, "user": self.user,
            "page": "" if page == 1 else str(page),
        }  # fmt: skip
        return "?" + urlencode({name: value for name, value in query.items() if value})

    @property
    def order(self) -> str:
        """The value of the parameter `sort` that this request has."""
        return f"{'-' if self.descending else ''}{self.sort}"


def parse_request(target: str) -> PageRequest:
    """Read the target of a GET, such as `/?q=nos&sort=-novel`; what makes no sense is as if it were not there."""
    try:
        given = dict(parse_qsl(target.partition("?")[2], max_num_fields=20, errors="replace"))
    except ValueError:
        given = {}
    text = {name: value.strip()[:_MAX_TEXT] for name, value in given.items()}
    order = text.get("sort", "-novel")
    sort = order.removeprefix("-")
    if sort not in COLUMNS:
        order, sort = "-novel", "novel"
    event = text.get("event", "")
    try:
        event_id = parse_event_id(event) if event else None
    except InvalidEncoding:
        event_id = None
    user = text.get("user", "")
    try:
        user_key = parse_public_key(user) if user else None
    except InvalidEncoding:
        user_key = None
    page = text.get("page", "")
    number = int(page) if page.isascii() and page.isdecimal() and len(page) < 7 else 1
    return PageRequest(
        search=text.get("q", ""), sort=sort, descending=order.startswith("-"), event=event, event_id=event_id,
        user=user, user_key=user_key, page=max(1, number), token=text.get("token", ""),
    )  # fmt: skip


def cookie_of(values: Sequence[str]) -> str:
    """Return the token that a browser kept of its first visit; empty if it has none."""
    for value in values:
        for part in value.split(";"):
            name, _, content = part.strip().partition("=")
            if name == TOKEN_COOKIE:
                return content
    return ""


def is_local(peer: str, host: str) -> bool:
    """Return True if a browser on this machine asked for this machine, by an address or name that no stranger controls.

    A page of a stranger's can have a browser ask for any name that resolves here; only `localhost` and loopback
    addresses are surely meant.
    """
    name = host.strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return _is_loopback(peer) and (name == "localhost" or _is_loopback(name))


def _is_loopback(text: str) -> bool:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback
