"""The publishing side of a scripted relay: EVENT and OK, AUTH and its proof."""

import asyncio
import json
import secrets
from collections.abc import Mapping
from time import monotonic
from typing import Any, Protocol

from tests.factories.events import SignedEvent, from_raw, is_authentic
from tests.fakes.behaviour import Behaviour, OkRule
from tests.fakes.relay_journal import Authenticated, Journal, Other, Published
from tests.fakes.relay_output import Output
from tests.fakes.relay_store import MemoryStore


class Relay(Protocol):
    """What a connection needs of its relay; all of it on the relay's own thread."""

    behaviour: Behaviour
    journal: Journal
    store: MemoryStore

    def turn(self, rule: object, *, skip: int = 0, times: int | None = None) -> bool:
        """Whether it is `rule`'s turn, counted over all connections since the behaviour was set."""
        ...

    def accept(self, event: SignedEvent) -> str:
        """Keep a published event and hand it to live subscriptions; returns why not, or nothing."""
        ...

    def let_arrive(self, count: int) -> None:
        """Take in so many of the events that are about to arrive, and hand them to whatever is open."""
        ...


class Intake:
    """What one client publishes, and whether it has authenticated."""

    def __init__(self, relay: Relay, output: Output, number: int) -> None:
        self._relay = relay
        self._output = output
        self._number = number
        self._challenge = secrets.token_hex(8)
        self._authenticated = False

    def challenge(self) -> None:
        """Send the challenge."""
        self._output.message("AUTH", self._challenge)

    def needs_auth(self, *, writes: bool) -> bool:
        """Whether the client must authenticate first."""
        demand = self._relay.behaviour.auth
        return demand is not None and not self._authenticated and (demand.writes if writes else demand.reads)

    def auth(self, value: Mapping[str, Any]) -> None:
        """Take an AUTH message's event."""
        event, demand = _read(value), self._relay.behaviour.auth
        valid = (
            event is not None
            and event.kind == 22242
            and ("challenge", self._challenge) in event.tags
            and any(tag[0] == "relay" for tag in event.tags)
            and is_authentic(event)
            and (demand is None or demand.relay is None or ("relay", demand.relay) in event.tags)
        )
        self._authenticated |= valid
        pubkey = "" if event is None else event.pubkey
        self._relay.journal.add(Authenticated(at=monotonic(), connection=self._number, pubkey=pubkey, valid=valid))
        if event is not None and not valid:
            self._output.message("OK", event.id, False, "invalid: auth event does not answer the challenge")
        elif event is not None and (demand is None or not demand.silent_success):
            self._output.message("OK", event.id, True, "")

    async def publish(self, value: Mapping[str, Any]) -> None:
        """Take an EVENT message's event and answer it."""
        event = _read(value)
        if event is None:
            self._relay.journal.add(Other(at=monotonic(), connection=self._number, label="EVENT"))
            self._output.message("NOTICE", "invalid: malformed event")
            return
        rule = self._rule(event)
        if rule is None:
            accepted, reason = self._usual_answer(event)
            self._note(event, accepted)
            self._output.message("OK", event.id, accepted, reason)
            return
        if rule.delay_s:
            await asyncio.sleep(rule.delay_s)
        if rule.store:
            self._relay.accept(event)
        self._note(event, rule.accepted if rule.answer and not rule.reset else None)
        if rule.reset:
            self._output.reset()
        elif rule.answer:
            self._output.message("OK", event.id, rule.accepted, rule.reason)

    def _note(self, event: SignedEvent, accepted: bool | None) -> None:
        entry = Published(
            at=monotonic(), connection=self._number, event_id=event.id, kind=event.kind, accepted=accepted
        )
        self._relay.journal.add(entry)

    def _rule(self, event: SignedEvent) -> OkRule | None:
        for rule in self._relay.behaviour.ok_rules:
            if rule.kinds is not None and event.kind not in rule.kinds:
                continue
            if rule.containing is not None and rule.containing not in event.raw:
                continue
            if self._relay.turn(rule, skip=rule.skip, times=rule.times):
                return rule
        return None

    def _usual_answer(self, event: SignedEvent) -> tuple[bool, str]:
        if self.needs_auth(writes=True):
            return False, "auth-required: authenticate first"
        if not is_authentic(event):
            return False, "invalid: bad id or signature"
        match self._relay.accept(event):
            case "duplicate":
                return True, "duplicate: already have this event"
            case "replaced":
                return False, "replaced: have newer event"
            case _:
                return True, ""


def _read(value: Mapping[str, Any]) -> SignedEvent | None:
    try:
        return from_raw(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    except (KeyError, TypeError):
        return None
