"""How many subscriptions may be open, and what a second REQ under an open id does."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from pipeline.nostr.event import public_key
from pipeline.nostr.kinds import TEXT_NOTE
from pipeline.probe.exchange import Ask, Awaited, Channel, End, FilterValue, Reply, req
from pipeline.probe.known import Known, Steps, stranger
from pipeline.probe.observation import Observation, refused, unknown
from pipeline.probe.questions.writing import publish, signed
from pipeline.relay.dimensions import Dimension
from pipeline.relay.refusals import read


@dataclass(frozen=True, slots=True)
class OpenId:
    """A REQ under an id that is open: another one, and the same once more."""

    names: ClassVar = ("subscription.open_id_other_filter", "subscription.open_id_same_filter")

    def ask(self, known: Known) -> Steps:
        """Ask for two things under one id, then for the second again."""
        subscription = known.new_id()
        first: FilterValue = {"kinds": [1], "authors": [stranger(7)], "limit": 1}
        second: FilterValue = {"kinds": [1], "authors": [stranger(8)], "limit": 1}
        opened = yield req(subscription, first, keeps_open=True, line=Channel.FRESH)
        if not opened.is_answered:
            return [refused(name, opened) for name in self.names]
        other = yield req(subscription, second, keeps_open=True, repeats=False)
        if other.end is End.LOST:
            return [refused(self.names[0], other), unknown(self.names[1], "the connection is closed")]
        same = yield req(subscription, second, keeps_open=True, repeats=False)
        return [_observed(self.names[0], other), _observed(self.names[1], same)]


def _observed(name: str, answer: Reply) -> Observation:
    if answer.is_answered:
        return Observation(name, "answered")
    if answer.end is End.SILENCE:
        return Observation(name, "ignored", how="silence")
    return refused(name, answer)


@dataclass(frozen=True, slots=True)
class SubscriptionLimit:
    """How many subscriptions one connection may have open: until one is refused, or an older one is served no more."""

    names: ClassVar = ("limit.subscriptions",)
    top: int = 70

    def ask(self, known: Known) -> Steps:
        """Open one after the other; publish something that all of them want, where that is allowed."""
        name = self.names[0]
        author = public_key(known.secret).hex() if known.published else stranger(10)
        opened: list[str] = []
        for _ in range(self.top):
            opened.append(known.new_id())
            query = {"kinds": [TEXT_NOTE], "authors": [author], "limit": 1}
            line = Channel.MAIN if len(opened) > 1 else Channel.FRESH
            # Silence is believed at once: a new connection would have none of the others.
            answer = yield req(opened[-1], query, keeps_open=True, line=line, repeats=False)
            if late := next(filter(_is_of_subscriptions, answer.late), None):
                # Said after an EOSE, of the one before.
                return [Observation(name, len(opened) - 2, how="EOSE, then NOTICE", says=late)]
            if not answer.is_answered:
                return [Observation(name, len(opened) - 1 or None, how=answer.manner, says=answer.words)]
        if not known.published:
            note = "answered; whether the oldest are still served shows with --write"
            return [Observation(name, self.top, is_least=True, note=note)]
        served = yield from _served(known, opened)
        if served is None:
            return [Observation(name, self.top, is_least=True, note="answered; no note reached them")]
        if opened[0] in served and opened[-1] in served:
            return [Observation(name, self.top, is_least=True)]
        return [Observation(name, len(served), how="silence", note="all are answered, not all of them are served")]


def _served(known: Known, opened: list[str]) -> Generator[Ask, Reply, set[str] | None]:
    """Return which subscriptions a new note reaches; None if it reaches none."""
    event = signed(known, known.now - 5, "subscriptions")
    verdict = yield publish(event, Channel.OTHER)
    if verdict.accepted:
        known.published.append(event)
    served: set[str] = set()
    for subscription in (opened[0], opened[-1]):
        if subscription in served:
            continue
        answer = yield Ask((), subscription, Awaited.LIVE, repeats=False)
        served |= {name for name, each in answer.others if each.id == event.id}
        served |= {subscription} if event.id in answer.ids else set()
    return served or None


def _is_of_subscriptions(text: str) -> bool:
    return read(text).dimension is Dimension.SUBSCRIPTIONS
