"""Which forms of filters are answered whole: of the events that the relay showed before, all that match must come."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar, Final

from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.printable import count_of
from pipeline.probe.exchange import End, Reply, req
from pipeline.probe.known import Known, Steps, commonest, letters, stranger
from pipeline.probe.observation import Observation, refused, unknown

_LIMIT: Final = 500
# Fewer events than any cap, so that what is missing is missing for the form's sake.
_MOST_EXPECTED: Final = 40
# With more, the relay may have left something out as the page is full.
_MOST_BESIDE: Final = 60
_MOST_CONTROLS: Final = 60


# Seconds before and after an event that a window spans: as long as it selects few enough.
_WIDTHS: Final = (3_600, 600, 60, 5)

Make = Callable[[Known, Event, int], Filter | None]
"""What makes a filter that selects an event and some of its like, within so many seconds where it names times."""


@dataclass(frozen=True, slots=True)
class FilterForm:
    """A form of filter. `make` returns one that selects the event and some of its like, None if there is none."""

    name: str
    make: Make

    @property
    def names(self) -> tuple[str, ...]:
        """Its line."""
        return (f"form.{self.name}",)

    def ask(self, known: Known) -> Steps:
        """Ask for what the relay showed before, in this form."""
        name = self.names[0]
        chosen = _most_telling(self, known)
        if chosen is None:
            return [unknown(name, "no event to check with")]
        query, expected = chosen
        answer = yield req(known.new_id(), query.to_value())
        return [_observed(name, query, expected, answer)]


def _most_telling(form: FilterForm, known: Known) -> tuple[Filter, frozenset[bytes]] | None:
    """Return the filter of this form that tells most, with the events that it must bring; None if there is none.

    It selects fewer events than any cap. Best is one that must pass over older events of a higher kind, since some
    stores are searched kind by kind; then one that must pass over others; then the one that selects most.
    """
    best: tuple[tuple[bool, bool, int], Filter, frozenset[bytes]] | None = None
    events = list(known.pool.values())
    shown = {each.id for each in known.controls()}
    for control, width in product(known.controls()[:_MOST_CONTROLS], _WIDTHS):
        query = form.make(known, control, width)
        if query is None:
            continue
        at_any_time = [each for each in events if replace(query, since=None, until=None).matches(each)]
        matching = [each for each in at_any_time if query.matches(each)]
        expected = frozenset(each.id for each in matching if each.id in shown)
        if not expected or len(matching) > _MOST_EXPECTED:
            continue
        lowest = min(each.kind for each in matching)
        older = [each for each in at_any_time if each.created_at < (query.since or 0)]
        score = any(each.kind > lowest for each in older), len(at_any_time) > len(matching), len(expected)
        if best is None or score > best[0]:
            best = score, query, expected
    return None if best is None else best[1:]


def _observed(name: str, query: Filter, expected: frozenset[bytes], answer: Reply) -> Observation:
    came = answer.ids & expected
    alien = [each for each in answer.events if not query.matches(each)]
    if not answer.events and (answer.complaint is not None or not answer.is_answered):
        return refused(name, answer)
    notes = [f"{len(came)} of {len(expected)} came"]
    if alien:
        notes.append(f"{len(alien)} that do not match")
    if answer.end is not End.EOSE:
        notes.append(f"ended by {answer.manner}")
    if len(came) < len(expected) and len(answer.events) > _MOST_BESIDE:
        return unknown(name, f"the page is full: {count_of(len(answer.events), 'event')}")
    value = "whole" if len(came) == len(expected) else "holes"
    if alien and value == "whole":
        value = "whole, and others"
    says = answer.words if answer.end is not End.EOSE else ""
    return Observation(name, value, note=", ".join(notes), says=says)


# The forms themselves.


def _window(control: Event, width: int) -> tuple[int, int]:
    """Return times on both sides of the event, on neither of which it lies."""
    return control.created_at - width, control.created_at + width + 1


def _ids(known: Known, _: Event, __: int) -> Filter | None:
    return Filter(ids=frozenset(each.id for each in known.controls()[:5]), limit=_LIMIT)


def _authors(_: Known, control: Event, __: int) -> Filter | None:
    return Filter(authors=frozenset({control.pubkey}), limit=_LIMIT)


def _authors_and_kinds(known: Known, control: Event, _: int) -> Filter | None:
    kinds = {each.kind for each in known.controls(lambda each: each.pubkey == control.pubkey)}
    return Filter(authors=frozenset({control.pubkey}), kinds=frozenset(sorted(kinds)[:3]), limit=_LIMIT)


def _kinds(_: Known, control: Event, width: int) -> Filter | None:
    since, until = _window(control, width)
    return Filter(kinds=frozenset({control.kind}), since=since, until=until, limit=_LIMIT)


def _times(_: Known, control: Event, width: int) -> Filter | None:
    since, until = _window(control, width)
    return Filter(since=since, until=until, limit=_LIMIT)


def _tagged(control: Event, letter: str) -> tuple[tuple[str, frozenset[str]], ...] | None:
    values = [value for name, value in letters(control) if name == letter]
    return ((letter, frozenset(values[:1])),) if values else None


def tag(letter: str) -> Make:
    """Return the form that names one value of a tag and nothing else."""

    def make(_: Known, control: Event, __: int) -> Filter | None:
        tags = _tagged(control, letter)
        return None if tags is None else Filter(tags=tags, limit=_LIMIT)

    return make


def tag_in_time(letter: str) -> Make:
    """Return the same with `since` and `until`."""

    def make(_: Known, control: Event, width: int) -> Filter | None:
        tags = _tagged(control, letter)
        since, until = _window(control, width)
        return None if tags is None else Filter(tags=tags, since=since, until=until, limit=_LIMIT)

    return make


def tag_and_kinds(letter: str) -> Make:
    """Return the same with kinds."""

    def make(known: Known, control: Event, width: int) -> Filter | None:
        tags = _tagged(control, letter)
        since, until = _window(control, width)
        kinds = commonest((each.kind for each in known.controls() if tags and Filter(tags=tags).matches(each)), 3)
        chosen = frozenset({control.kind, *(each for each in kinds if isinstance(each, int))})
        return None if tags is None else Filter(tags=tags, kinds=chosen, since=since, until=until, limit=_LIMIT)

    return make


FORMS: Final = (
    FilterForm("ids", _ids),
    FilterForm("authors", _authors),
    FilterForm("authors_kinds", _authors_and_kinds),
    FilterForm("kinds_times", _kinds),
    FilterForm("times", _times),
    *(
        FilterForm(name, make)
        for letter in ("p", "e", "t")
        for name, make in (
            (f"{letter}_tag", tag(letter)), (f"{letter}_tag_times", tag_in_time(letter)),
            (f"{letter}_tag_kinds_times", tag_and_kinds(letter)),
        )
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LastValue:
    """Whether a list is searched beyond its first value: of authors, or of a tag's values."""

    names: ClassVar = ("form.second_author", "form.second_tag_value")

    def ask(self, known: Known) -> Steps:
        """Ask for an event by the second value of a list."""
        author, value = self.names
        controls, tagged = known.controls(), known.tagged()
        found = [unknown(name, "no event to check with") for name in self.names if not controls or not tagged]
        if controls:
            control = controls[0]
            answer = yield req(
                known.new_id(),
                {"authors": [stranger(0), control.pubkey.hex()], "kinds": [control.kind], "limit": _LIMIT},
            )
            found.append(_searched(author, control, answer))
        if tagged:
            control, letter, text = tagged[0]
            answer = yield req(
                known.new_id(), {f"#{letter}": [stranger(0), text], "kinds": [control.kind], "limit": _LIMIT}
            )
            found.append(_searched(value, control, answer))
        return {each.name: each for each in found}.values()


def _searched(name: str, control: Event, answer: Reply) -> Observation:
    if control.id in answer.ids:
        return Observation(name, "searched")
    if answer.complaint is not None or not answer.is_answered:
        return refused(name, answer)
    # A full page may have no room for it.
    return Observation(name, "not searched") if len(answer.events) < 50 else unknown(name, "too many events match")


@dataclass(frozen=True, slots=True)
class TwoFilters:
    """Whether all filters of a request are answered, and whether each has a limit of its own."""

    names: ClassVar = ("form.two_filters", "form.limit_of_filters")

    def ask(self, known: Known) -> Steps:
        """Ask for two events by two filters with a limit of one each."""
        controls = _of_two_kinds(known)
        if controls is None:
            return [unknown(name, "no two events to check with") for name in self.names]
        filters = [
            {"authors": [each.pubkey.hex()], "kinds": [each.kind], "since": each.created_at - 5,
             "until": each.created_at + 5, "limit": 1}
            for each in controls
        ]  # fmt: skip
        wanted = {(each.pubkey, each.kind) for each in controls}
        answer = yield req(known.new_id(), *filters)
        if wanted <= _authors_with_kinds(answer):
            return [Observation(self.names[0], "all answered"), Observation(self.names[1], "each its own")]
        if not answer.events:
            return [refused(self.names[0], answer), unknown(self.names[1], "two filters are refused")]
        roomy = [{**each, "limit": 10} for each in filters]
        answer = yield req(known.new_id(), *roomy)
        both = wanted <= _authors_with_kinds(answer)
        return [
            Observation(self.names[0], "all answered" if both else "only one answered"),
            Observation(self.names[1], "one for all") if both else unknown(self.names[1], "only one is answered"),
        ]


def _of_two_kinds(known: Known) -> tuple[Event, Event] | None:
    """Return two events that differ in author or kind."""
    controls = known.controls()
    other = (each for each in controls if (each.pubkey, each.kind) != (controls[0].pubkey, controls[0].kind))
    second = next(other, None)
    return None if second is None else (controls[0], second)


def _authors_with_kinds(answer: Reply) -> set[tuple[bytes, int]]:
    return {(each.pubkey, each.kind) for each in answer.events}
