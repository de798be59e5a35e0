"""Valid events of our own making: kinds that the service treats specially, and forms that people publish."""

import json
from collections.abc import Iterator

from tests.factories.events import Author, SignedEvent, Tags, authors

SEED = 2_024
T0 = 1_700_000_000
PEOPLE = authors(SEED, 40)
_ALL_CONTROLS = "".join(map(chr, range(0x20)))

CONTENTS = (
    "",
    "hello",
    'quotes " and \\ backslashes, / slashes and </script>',
    "line\nfeed, carriage\rreturn, tab\t, backspace\b, form feed\f",
    _ALL_CONTROLS,
    "delete \x7f and next \x80 \x9f",
    "separators \u2028 \u2029 \ufeff",
    "Grüße, 你好, שלום, مرحبا, नमस्ते",
    "combined e\u0301 and composed \u00e9",
    "😀 👩‍👩‍👧 \U0010ffff",
    "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    "not a number: NaN, 1e400, -0",
    '{"json": ["in", "json", {"deep": [[[[]]]]}]}',
    "https://example.com/?a=1&b=%20#x nostr:npub1 #tag @name",
    "x" * 5_000,
)
KINDS = (1, 4, 5, 6, 7, 16, 62, 1059, 1984, 9735, 10_000, 10_006, 10_050, 20_001, 30_002, 30_023, 30_078, 65_535)


def make() -> Iterator[SignedEvent]:
    """All of them, in the order of their file."""
    yield from _notes()
    yield from _profiles()
    yield from _contact_lists()
    yield from _relay_statements()
    yield from _odd_tags()
    yield from _odd_times()


def _sign(
    number: int, content: str = "", *, kind: int = 1, tags: Tags = (), created_at: int | None = None
) -> SignedEvent:
    author = PEOPLE[number % len(PEOPLE)]
    return author.sign(content, kind=kind, tags=tags, created_at=T0 + 60 * number if created_at is None else created_at)


def _notes() -> Iterator[SignedEvent]:
    for number, content in enumerate(CONTENTS):
        yield _sign(number, content)
    for number, kind in enumerate(KINDS):
        yield _sign(20 + number, f"of kind {kind}", kind=kind, tags=[["e", f"{number:064x}"], ["d", f"{kind}"]])


def _profiles() -> Iterator[SignedEvent]:
    yield _sign(40, json.dumps({"name": "alice", "about": "made", "picture": "https://example.com/a.png"}), kind=0)
    yield _sign(41, "no JSON at all", kind=0)
    yield _sign(42, "[]", kind=0)


def _followees(count: int) -> list[list[str]]:
    return [["p", Author.from_seed(SEED + 1, index).pubkey] for index in range(count)]


def _contact_lists() -> Iterator[SignedEvent]:
    for number, count in enumerate((0, 1, 7, 150)):
        yield _sign(43 + number, kind=3, tags=_followees(count))
    relays = {f"wss://relay-{index}.example.com": {"read": True, "write": index == 0} for index in range(3)}
    yield _sign(47, json.dumps(relays), kind=3, tags=_followees(3))
    three = _followees(3)
    sloppy = [
        three[0],
        ["p"],
        ["p", ""],
        ["p", "npub1"],
        three[0],
        ["p", three[1][1].upper()],
        [*three[2], "wss://h.example.com", "nick"],
    ]
    yield _sign(48, "not json {", kind=3, tags=sloppy)


def _relay_statements() -> Iterator[SignedEvent]:
    marked = [
        ["r", "wss://both.example.com"],
        ["r", "wss://in.example.com", "read"],
        ["r", "wss://out.example.com", "write"],
    ]
    yield _sign(49, kind=10_002, tags=marked)
    yield _sign(
        50,
        kind=10_002,
        tags=[["r", "WSS://Both.Example.com:443/"], ["r", "http://not.example.com"], ["r"], ["r", "edit"]],
    )
    yield _sign(51, "wss://recommended.example.com", kind=2)
    yield _sign(52, kind=30_166, tags=[["d", "wss://monitored.example.com/"], ["n", "clearnet"]])
    yield _sign(53, kind=10_050, tags=[["relay", "wss://inbox.example.com"], ["relay", "wss://inbox.example.com/"]])
    yield _sign(54, kind=30_002, tags=[["d", "set"], ["relay", "wss://set.example.com/path"], ["relay", ""]])
    yield _sign(55, kind=10_006, tags=[["relay", "wss://blocked.example.com"]])
    yield _sign(56, "see", tags=[["r", "wss://link.example.com"], ["r", "https://example.com/page"]])
    hints = [
        ["e", "00" * 32, "wss://hint.example.com", "reply"],
        ["p", PEOPLE[1].pubkey, "wss://hint2.example.com"],
        ["q", "11" * 32, "ws://10.0.0.1"],
    ]
    yield _sign(57, "reply", tags=hints)
    yield _sign(58, "a", tags=[["a", f"30023:{PEOPLE[2].pubkey}:d", "wss://hint3.example.com"], ["e", "22" * 32, ""]])


def _odd_tags() -> Iterator[SignedEvent]:
    yield _sign(60, tags=[["-"], ["client"], [""], ["", ""]])
    yield _sign(61, tags=[["t", _ALL_CONTROLS], ["t", "\x7f"], ["ключ", "значение"]])
    yield _sign(62, tags=[["p", PEOPLE[3].pubkey]] * 5)
    yield _sign(63, tags=[["t", f"{index}"] for index in range(2_000)])
    yield _sign(64, tags=[["imeta", *(f"value {index}" for index in range(200))]])
    yield _sign(65, tags=[["expiration", "1"], ["expiration", "x"], ["expiration"]])
    yield _sign(66, tags=[["d"], ["d", ""], ["d", "x"]], kind=30_023)
    yield _sign(67, tags=[["x", "y" * 4_000]])
    yield _sign(68, tags=[[], ["p", PEOPLE[3].pubkey], []])


def _odd_times() -> Iterator[SignedEvent]:
    for number, created_at in enumerate((0, 1, 2**31, 2**32 + 1, 2**53 - 1, 2**53 + 1, 2**63 - 1)):
        yield _sign(70 + number, "at an odd time", created_at=created_at)
    # Of one author and second: the lowest id counts.
    for number in range(4):
        yield PEOPLE[0].sign(f"tie {number}", kind=0, created_at=T0)
