"""How much of each dimension the relay takes in one filter, request, frame or subscription id."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from pipeline.nostr.event import Event
from pipeline.probe.exchange import Ask, Channel, FilterValue, Reply, frame, req
from pipeline.probe.known import Known, Steps, letters, stranger
from pipeline.probe.observation import Observation, unknown
from pipeline.probe.questions.search import Taken, most_taken
from pipeline.relay.dimensions import Dimension
from pipeline.relay.refusals import read

MOST_MEMBERS: Final = 1_000
MOST_KINDS: Final = 320
MOST_FILTERS: Final = 210
MOST_TAG_FILTERS: Final = 12
MOST_ID_LENGTH: Final = 300
_LIMIT: Final = 500
_FIRST_ODD_KIND: Final = 9_100
# No letters whose values some relays check.
_LETTERS: Final = "bcfjnostvwyz"

Control = tuple[Event, str, str]
"""An event, with a letter and a value that it is found by."""


@dataclass(frozen=True, slots=True)
class Bounded:
    """One dimension. `make` returns a request with so much of it which a known event, named last, matches."""

    name: str
    top: int
    make: Callable[[str, Control, int], Ask]
    needs_tag: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Its line."""
        return (f"limit.{self.name}",)

    def ask(self, known: Known) -> Steps:
        """Ask for the most, and search between where that is too much."""
        control = _control(known, needs_tag=self.needs_tag)
        name = self.names[0]
        if control is None:
            return (yield from self._without_control(known, name))
        event = control[0]
        found = yield from most_taken(
            lambda size: self.make(known.new_id(), control, size), lambda answer, _: event.id in answer.ids, self.top
        )
        return [of_search(name, found)]

    def _without_control(self, known: Known, name: str) -> Steps:
        """Only a refusal shows; whether all of a list is searched does not."""
        nothing = Event(bytes.fromhex(stranger(1)), bytes.fromhex(stranger(2)), known.now, 1, (), "", b"")
        control = nothing, "p", stranger(3)
        found = yield from most_taken(
            lambda size: self.make(known.new_id(), control, size), lambda answer, _: answer.is_answered, self.top
        )
        if found.refusal is None:
            return [unknown(name, f"{found.most:,} are not refused; no event shows whether they are searched")]
        return [of_search(name, found)]


def of_search(name: str, found: Taken) -> Observation:
    """Return the line for what a search found."""
    if found.refusal is None:
        return Observation(name, found.most, is_least=True)
    if found.most is None:
        return Observation(name, None, how=found.refusal.manner, says=found.refusal.words, note="not even one is taken")
    return Observation(name, found.most, how=_manner(found.refusal), says=found.refusal.words)


def _manner(answer: Reply) -> str:
    return "holes" if answer.is_answered and answer.events else answer.manner


def _control(known: Known, *, needs_tag: bool) -> Control | None:
    if needs_tag:
        return next(iter(known.tagged()), None)
    controls = known.controls()
    return (controls[0], "", "") if controls else None


def _beside(event: Event, **members: Any) -> FilterValue:
    """Return a filter that selects the event by the members, its kind and its time."""
    return {"kinds": [event.kind], **members, "since": event.created_at - 5, "until": event.created_at + 5,
            "limit": _LIMIT}  # fmt: skip


def _kinds(subscription: str, control: Control, size: int) -> Ask:
    event = control[0]
    others = [kind for kind in range(_FIRST_ODD_KIND, _FIRST_ODD_KIND + size) if kind != event.kind][: size - 1]
    return req(subscription, _beside(event, kinds=[*others, event.kind], authors=[event.pubkey.hex()]))


def _authors(subscription: str, control: Control, size: int) -> Ask:
    event = control[0]
    return req(subscription, _beside(event, authors=[*_strangers(size - 1), event.pubkey.hex()]))


def _ids(subscription: str, control: Control, size: int) -> Ask:
    return req(subscription, {"ids": [*_strangers(size - 1), control[0].id.hex()], "limit": _LIMIT})


def _tag_values(subscription: str, control: Control, size: int) -> Ask:
    event, letter, value = control
    return req(subscription, _beside(event, **{f"#{letter}": [*_strangers(size - 1), value]}))


def _filters(subscription: str, control: Control, size: int) -> Ask:
    """Filters may share the limit of the first, so that each has a large one."""
    event = control[0]
    others: list[FilterValue] = [
        {"authors": [key], "kinds": [event.kind], "limit": _LIMIT} for key in _strangers(size - 1)
    ]
    return req(subscription, *others, _beside(event, authors=[event.pubkey.hex()]))


def _strangers(count: int) -> list[str]:
    return [stranger(number) for number in range(count)]


LISTS: Final = (
    Bounded("kinds", MOST_KINDS, _kinds),
    Bounded("authors", MOST_MEMBERS, _authors),
    Bounded("ids", MOST_MEMBERS, _ids),
    Bounded("tag_values", MOST_MEMBERS, _tag_values, needs_tag=True),
)
FILTERS: Final = Bounded("filters", MOST_FILTERS, _filters)


@dataclass(frozen=True, slots=True)
class TagFilters:
    """How many tag conditions one filter may have."""

    names: ClassVar = ("limit.tag_filters",)

    def ask(self, known: Known) -> Steps:
        """Ask by as many tags as an event has; beyond them only a refusal shows."""
        name = self.names[0]
        control = max(known.controls(), key=lambda each: len(dict(letters(each))), default=None)
        own = {} if control is None else dict(letters(control))
        kind = 1 if control is None else control.kind
        found = yield from most_taken(
            lambda size: req(known.new_id(), _with_tags(own, size, kind)),
            lambda answer, size: answer.is_answered and (size > len(own) or not own or _came(control, answer)),
            MOST_TAG_FILTERS,
        )
        if found.refusal is not None and found.refusal.words and not _is_of(Dimension.TAG_FILTERS, found.refusal.words):
            note = f"{found.refused_at} are refused, perhaps for their values"
            return [Observation(name, None, how=found.refusal.manner, says=found.refusal.words, note=note)]
        if found.refusal is not None or len(own) >= MOST_TAG_FILTERS:
            return [of_search(name, found)]
        return [unknown(name, f"{found.most} are not refused; no event shows whether they are searched")]


def _came(control: Event | None, answer: Reply) -> bool:
    return control is not None and control.id in answer.ids


def _with_tags(own: dict[str, str], size: int, kind: int) -> FilterValue:
    chosen = dict(list(own.items())[:size])
    for letter in _LETTERS:
        if len(chosen) < size:
            chosen.setdefault(letter, "event-service probe")
    return {"kinds": [kind], **{f"#{name}": [value] for name, value in chosen.items()}, "limit": _LIMIT}


@dataclass(frozen=True, slots=True)
class IdLength:
    """How long a subscription id may be."""

    names: ClassVar = ("limit.id_length",)

    def ask(self, known: Known) -> Steps:
        """Ask for little under ids of different lengths."""
        found = yield from most_taken(
            lambda size: req(
                f"{known.new_id()}{'x' * size}"[:size], {"kinds": [1], "authors": [stranger(5)], "limit": 1}
            ),
            lambda answer, _: answer.is_answered,
            MOST_ID_LENGTH,
        )
        return [of_search(self.names[0], found)]


@dataclass(frozen=True, slots=True)
class FrameBytes:
    """How long a frame may be: tried by sizes that people set, since the connection may be lost over each."""

    names: ClassVar = ("limit.frame_bytes",)
    sizes: tuple[int, ...] = (16_384, 65_536, 131_072, 262_144, 524_288, 1_048_576)

    def ask(self, known: Known) -> Steps:
        """Ask for little in frames that are filled up with blanks, the shortest first."""
        taken, refusal = 0, None
        advertised = known.information.limits.max_message_length if known.information is not None else None
        named = (advertised, advertised + 1) if advertised and advertised < self.sizes[-1] else ()
        for size in sorted({*self.sizes, *named}):
            refusal = yield _padded(known.new_id(), size)
            if not refusal.is_answered:
                break
            taken = size
        assert refusal is not None, "there are sizes"
        if refusal.is_answered:
            return [Observation(self.names[0], taken, is_least=True)]
        note = f"{size:,} are too many"
        if taken == 0:
            return [Observation(self.names[0], None, how=refusal.manner, says=refusal.words, note=note)]
        complaint = refusal.complaint
        if complaint is not None and complaint.dimension is Dimension.FRAME_BYTES and complaint.most is not None:
            taken = max(taken, min(complaint.most, size - 1))
        return [Observation(self.names[0], taken, how=refusal.manner, says=refusal.words, note=note)]


def _padded(subscription: str, size: int) -> Ask:
    text = frame("REQ", subscription, {"kinds": [1], "authors": [stranger(6)], "limit": 1})
    return Ask((f"{text[:-1]}{' ' * (size - len(text))}]",), subscription, line=Channel.FRESH)


def _is_of(dimension: Dimension, text: str) -> bool:
    return read(text).dimension is dimension
