"""What reaches an open subscription, beside what is stored."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from pipeline.nostr.event import Event, public_key
from pipeline.nostr.kinds import REACTION, TEXT_NOTE, is_ephemeral
from pipeline.probe.exchange import Ask, Awaited, Channel, End, FilterValue, Reply, req
from pipeline.probe.known import Known, Steps, stranger
from pipeline.probe.observation import Observation, refused, unknown
from pipeline.probe.questions.writing import publish, signed

EPHEMERAL_KIND: Final = 20_787
_BUSY_KINDS: Final = [1, 6, 7]
_MOST_OTHERS: Final = 5
_LATE: Final = 0.3


@dataclass(frozen=True, slots=True)
class Delivery:
    """Whether an event that is published now reaches a subscription.

    `limit`: of its filter; `off`: seconds from now to the date of the event; `is_second`: another filter stands before.
    """

    name: str
    kind: int = TEXT_NOTE
    limit: int = 1
    off: int = 0
    is_second: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Its line."""
        return (f"live.{self.name}",)

    def ask(self, known: Known) -> Steps:
        """Subscribe on one connection, publish on another."""
        name = self.names[0]
        if not known.published:
            return [unknown(name, "needs --write" if not known.writes else "no note is accepted")]
        query = {"kinds": [self.kind], "authors": [public_key(known.secret).hex()], "limit": self.limit}
        before: list[FilterValue] = [{"kinds": [self.kind], "authors": [stranger(11)], "limit": 1}]
        subscription = known.new_id()
        opened = yield req(
            subscription, *(before if self.is_second else []), query, keeps_open=True, line=Channel.FRESH, repeats=False
        )
        if opened.end is not End.SILENCE and not opened.is_answered:
            return [refused(name, opened)]
        event = signed(known, known.now + self.off, self.name, self.kind)
        verdict = yield publish(event, Channel.OTHER)
        if verdict.end is End.OK and not verdict.accepted:
            return [unknown(name, f"the event is refused: {verdict.text}")]
        if not is_ephemeral(self.kind):
            known.published.append(event)
        return [_observed(name, event, (yield from _first(subscription, [event])))]


def _first(subscription: str, wanted: Sequence[Event]) -> Generator[Ask, Reply, Reply]:
    """Return the answer with the first of these that comes under the subscription, or with the end of waiting."""
    ids = {each.id for each in wanted}
    for _ in range(_MOST_OTHERS):
        answer = yield Ask((), subscription, Awaited.LIVE, repeats=False)
        if answer.end is not End.EVENT or ids & answer.ids:
            return answer
    return answer


def _observed(name: str, event: Event, answer: Reply) -> Observation:
    if event.id in answer.ids:
        return Observation(name, "delivered")
    if answer.end is End.CLOSED:
        return refused(name, answer, "subscription ended")
    return Observation(name, "not delivered", how=answer.manner)


DELIVERIES: Final = (
    Delivery("note", off=-1),
    Delivery("limit_zero", limit=0, off=-2),
    Delivery("second_filter", off=-3, is_second=True),
    Delivery("dated_back", off=-172_000),
    Delivery("ephemeral", kind=EPHEMERAL_KIND),
)


@dataclass(frozen=True, slots=True)
class ReplacedSubscription:
    """Whether a REQ under an open id replaces the subscription or adds to it."""

    names: ClassVar = ("subscription.open_id_serves",)

    def ask(self, known: Known) -> Steps:
        """Subscribe to notes, then under the same id to reactions; publish one of each."""
        name = self.names[0]
        if not known.published:
            return [unknown(name, "needs --write" if not known.writes else "no note is accepted")]
        subscription, author = known.new_id(), public_key(known.secret).hex()
        for kind, line in ((TEXT_NOTE, Channel.FRESH), (REACTION, Channel.MAIN)):
            query = {"kinds": [kind], "authors": [author], "limit": 1}
            opened = yield req(subscription, query, keeps_open=True, line=line, repeats=False)
            if opened.end is not End.SILENCE and not opened.is_answered:
                return [refused(name, opened)]
        note = signed(known, known.now - 4, "replaced")
        reaction = signed(known, known.now - 4, "+", REACTION, [["e", note.id.hex()]])
        for event in (note, reaction):
            verdict = yield publish(event, Channel.OTHER)
            if verdict.accepted:
                known.published.append(event)
        answer = yield from _first(subscription, [note, reaction])
        if note.id not in answer.ids and reaction.id not in answer.ids:
            return [Observation(name, "neither", how=answer.manner)]
        other = reaction if note.id in answer.ids else note
        # What comes late may still be on its way; mostly nothing comes.
        second = yield Ask((), subscription, Awaited.WATCH, patience=_LATE, repeats=False)
        if other.id in second.ids:
            return [Observation(name, "both")]
        return [Observation(name, "the second alone" if other is note else "the first alone")]


@dataclass(frozen=True, slots=True)
class UnpublishedEvent:
    """Whether what reaches an open subscription by itself is stored as well."""

    names: ClassVar = ("live.arrives", "live.is_stored")

    def ask(self, known: Known) -> Steps:
        """Wait a little for what strangers publish."""
        first, second = self.names
        subscription = known.new_id()
        query = {"kinds": _BUSY_KINDS, "limit": 1}
        opened = yield req(subscription, query, keeps_open=True, line=Channel.FRESH, repeats=False)
        if not opened.is_answered:
            return [refused(first, opened), unknown(second, "nothing is subscribed to")]
        answer = yield Ask((), subscription, Awaited.WATCH, repeats=False)
        if answer.end is not End.EVENT:
            why = "nothing arrived while it was watched" if answer.end is End.SILENCE else answer.manner
            return [unknown(first, why), unknown(second, why)]
        event = answer.events[0]
        stored = yield req(known.new_id(), {"ids": [event.id.hex()], "limit": 1}, line=Channel.FRESH)
        return [Observation(first, True), Observation(second, event.id in stored.ids)]
