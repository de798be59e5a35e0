"""A relay as plain as can be, for one question at a time: no sockets, no clock. Filters are read by the fakes' code."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pipeline.nostr.event import Event, event_from_json
from pipeline.probe.exchange import Ask, End, Reply
from pipeline.probe.known import Known, ProbeQuestion
from pipeline.probe.observation import Observation
from tests.factories.events import Author, SignedEvent
from tests.fakes.behaviour import HONEST, Behaviour
from tests.fakes.relay_store import InvalidFilter, MemoryStore, Query

NOW = 1_700_000_000
Filters = list[dict[str, Any]]


@dataclass
class ModelRelay:
    """`refuse` returns the answer to a REQ with these filters that is not served; `on_event` to what is published."""

    events: Iterable[SignedEvent]
    behaviour: Behaviour = HONEST
    refuse: Callable[[Filters, Ask], Reply | None] = lambda _, __: None
    challenge: str | None = None
    asked: list[Ask] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = MemoryStore()
        self.store.add_all(self.events)

    def answer(self, ask: Ask) -> Reply:
        self.asked.append(ask)
        if ask.awaits_event or not ask.frames:
            return Reply(End.SILENCE, challenge=self.challenge)
        label, _, *filters = json.loads(ask.frames[0]) if ask.frames[0].startswith("[") else ("", "")
        if label != "REQ":
            return Reply(End.NOTICE, "could not parse command", challenge=self.challenge)
        refusal = self.refuse(filters, ask)
        if refusal is not None:
            return refusal
        try:
            page = self.store.page([Query.read(each) for each in filters], self.behaviour)
        except InvalidFilter as error:
            return Reply(End.CLOSED, f"invalid: {error}")
        return Reply(End.EOSE, events=tuple(event_of(each) for each in page.events), challenge=self.challenge)

    def known(self) -> Known:
        """What a probe knows once it has seen the newest of this relay."""
        sample = tuple(event_of(each) for each in list(self.store)[:500])
        known = Known(NOW, bytes(31) + b"\x01", sample=sample, is_sample_kindless=bool(sample))
        known.note(sample)
        return known


def event_of(event: SignedEvent) -> Event:
    return event_from_json(event.raw.encode())


def seen(question: ProbeQuestion, relay: ModelRelay, known: Known | None = None) -> dict[str, Observation]:
    """What the question shows of the relay, by name."""
    known = relay.known() if known is None else known
    steps = question.ask(known)
    try:
        ask = next(steps)
        while True:
            answer = relay.answer(ask)
            known.note(answer.events)
            ask = steps.send(answer)
    except StopIteration as end:
        return {each.name: each for each in end.value}


def world(count: int = 60) -> list[SignedEvent]:
    """Notes and others of five authors, half a minute apart, each with tags."""
    people = [Author.from_seed(3, number) for number in range(5)]
    kinds = (1, 1, 7, 6, 1984)
    return [
        people[number % 5].sign(
            f"note {number}", kind=kinds[number % 4], created_at=NOW - 100 - 30 * number,
            tags=[("p", people[(number + 1) % 5].pubkey), ("e", f"{number % 7:064x}"), ("t", f"topic{number % 3}")],
        )
        for number in range(count)
    ]  # fmt: skip
