"""Messages of relays of our own making: each with its type, or with what is wrong with it."""

import json
from collections.abc import Iterator

from tests.corpus.events import PEOPLE, T0

_ID = "ab" * 32
_EVENT = PEOPLE[9].sign("in a message", created_at=T0).to_value()


def make() -> Iterator[tuple[str, str]]:
    """The text of each message and what it is: the name of its class, or `!` and a fault."""
    yield from ((json.dumps(message), kind) for message, kind in _GOOD)
    yield from ((json.dumps(message), f"!{fault}") for message, fault in _BAD)
    yield '\n ["EOSE","s"]\n', "Eose"
    yield from ((text, "!json") for text in _NO_JSON)


_GOOD: tuple[tuple[list[object], str], ...] = (
    (["EVENT", "s", _EVENT], "EventMessage"),
    (["EVENT", "s", _EVENT, "more"], "EventMessage"),
    (["EOSE", "s"], "Eose"),
    (["EOSE", "s", ["finish"]], "Eose"),
    (["EOSE", "s", ["more", "later"]], "Eose"),
    (["EOSE", "s", {"an": "object"}], "Eose"),
    (["CLOSED", "s", "error: too many"], "Closed"),
    (["CLOSED", "s", ""], "Closed"),
    (["CLOSED", "s"], "Closed"),
    (["OK", _ID, True, ""], "Ok"),
    (["OK", _ID, False, "blocked: no"], "Ok"),
    (["OK", _ID, True], "Ok"),
    (["OK", _ID.upper(), True, ""], "Ok"),
    (["NOTICE", "slow down"], "Notice"),
    (["NOTICE", ""], "Notice"),
    (["NOTICE", "ERROR: bad req: x", 1], "Notice"),
    (["AUTH", "challenge"], "AuthChallenge"),
    (["AUTH", ""], "AuthChallenge"),
    (["COUNT", "s", {"count": 3}], "Count"),
    (["COUNT", "s", {"count": 3, "approximate": True}], "Count"),
    (["NEG-MSG", "s", "61"], "NegMessage"),
    (["NEG-ERR", "s", "blocked: too many query results"], "NegError"),
    (["NEG-ERR", "s", "blocked: too many query results", 500_000], "NegError"),
    (["LATER", "s", "a word that no NIP has yet"], "Unknown"),
    (["PING"], "Unknown"),
)

_BAD: tuple[tuple[object, str], ...] = (
    ({}, "shape"),
    ([], "shape"),
    ([1, "s"], "shape"),
    ("EOSE", "shape"),
    (["EVENT", "s"], "shape"),
    (["EVENT", 1, _EVENT], "subscription"),
    (["EOSE"], "subscription"),
    (["EOSE", None], "subscription"),
    (["CLOSED"], "subscription"),
    (["OK", "00", True, ""], "id"),
    (["OK", _ID, "true", ""], "accepted"),
    (["OK", _ID], "accepted"),
    (["NOTICE"], "text"),
    (["NOTICE", ["x"]], "text"),
    (["AUTH"], "text"),
    (["COUNT", "s"], "count"),
    (["COUNT", "s", 3], "count"),
    (["NEG-MSG", "s", "6"], "payload"),
)

_NO_JSON = ("", "[", '["EOSE","s"', "EOSE", '["EOSE","s"]]', "\ufeff[]")
