"""One client's connection to a scripted relay: messages in, answers out, as the relay's behaviour says."""

import asyncio
import json
from collections.abc import Sequence
from time import monotonic
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from pipeline.nostr.negentropy import ItemSet
from tests.factories.events import SignedEvent
from tests.fakes import negentropy
from tests.fakes.behaviour import Behaviour, How, Interruption, Refusal
from tests.fakes.relay_intake import Intake, Relay
from tests.fakes.relay_journal import Answered, Close, Entry, Other, Refused, Req
from tests.fakes.relay_output import Output, event_frame
from tests.fakes.relay_store import InvalidFilter, Page, Query


class Connection:
    """Serves one client until it goes; all of it on the relay's own thread."""

    def __init__(self, relay: Relay, socket: ServerConnection, number: int) -> None:
        self._relay = relay
        self._socket = socket
        self.number = number
        self.output = Output(socket, lambda: relay.behaviour)
        self._intake = Intake(relay, self.output, number)
        self.subscriptions: dict[str, Sequence[Query]] = {}
        self._requests: dict[str, list[Sequence[Query]]] = {}
        self._raw_filters: dict[str, Any] = {}
        self._pages: dict[str, asyncio.Task[None]] = {}
        self._compared: dict[str, ItemSet] = {}
        self._live = 0
        self._tokens = 0.0
        self._refilled_at: float | None = None
        self._opened_at = monotonic()

    @property
    def behaviour(self) -> Behaviour:
        """What the relay does at this moment."""
        return self._relay.behaviour

    async def serve(self) -> None:
        """Answer messages until the connection ends."""
        try:
            if self.behaviour.auth is not None and self.behaviour.auth.on_connect:
                self._intake.challenge()
            for text in self.behaviour.hello:
                self.output.text(text)
            async for message in self._socket:
                if not self.behaviour.deaf:
                    await self._take(message.encode() if isinstance(message, str) else message)
        except ConnectionClosed:
            return
        finally:
            for task in self._pages.values():
                task.cancel()

    def _note(self, entry: type[Entry], **members: Any) -> None:
        self._relay.journal.add(entry(at=monotonic(), connection=self.number, **members))

    async def _take(self, raw: bytes) -> None:
        if monotonic() - self._opened_at < self.behaviour.deaf_s:
            return
        await asyncio.sleep(self.behaviour.pace_s)
        limit = self.behaviour.max_frame_bytes
        if limit is not None and len(raw) > limit:
            self._note(Refused, subscription="", how=How.RESET, reason="frame too large")
            self.output.reset()
            return
        try:
            message = json.loads(raw)
        except ValueError:
            message = None
        rate = self.behaviour.rate
        if rate is not None and not self._spend(rate.per_s, rate.burst):
            named = isinstance(message, list) and len(message) > 1 and isinstance(message[1], str)
            await self._refuse(rate.refusal, message[1] if named else "")
            return
        await self._dispatch(message)

    def _spend(self, per_s: float, burst: int) -> bool:
        now = monotonic()
        since = now if self._refilled_at is None else self._refilled_at
        tokens = burst if self._refilled_at is None else self._tokens
        self._tokens = min(burst, tokens + (now - since) * per_s)
        self._refilled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    async def _dispatch(self, message: Any) -> None:
        match message:
            case ["REQ", str(subscription), *filters]:
                await self._req(subscription, filters)
            case ["CLOSE", str(subscription), *_]:
                self._note(Close, subscription=subscription)
                self._end(subscription)
            case ["EVENT", dict(value), *_]:
                await self._intake.publish(value)
            case ["AUTH", dict(value), *_]:
                self._intake.auth(value)
            case ["COUNT", str(subscription), *filters] if self.behaviour.counts:
                self._note(Other, label="COUNT")
                self.output.message("COUNT", subscription, {"count": self._relay.store.count(filters)})
            case [str(label), *_] if label.startswith("NEG-"):
                self._note(Other, label=label)
                self._compare(message)
            case [str(label), *_]:
                self._note(Other, label=label)
                self._notice(self.behaviour.garbage_notice)
            case _:
                self._note(Other, label="")
                self._notice(self.behaviour.garbage_notice)

    def _compare(self, message: list[Any]) -> None:
        """Answer one message of NIP-77."""
        if not self.behaviour.negentropy:
            self._notice(self.behaviour.negentropy_notice)
            return
        label, subscription, *values = message
        if label == "NEG-CLOSE":
            self._compared.pop(subscription, None)
            return
        if label == "NEG-OPEN":
            query = Query.read(values[0])
            held = (event for event in self._relay.store if query.matches(event))
            self._compared[subscription] = ItemSet((event.created_at, bytes.fromhex(event.id)) for event in held)
        answer = negentropy.answer(self._compared[subscription], bytes.fromhex(values[-1]))
        self.output.message("NEG-MSG", subscription, answer.hex())

    def _notice(self, text: str | None) -> None:
        if text is not None:
            self.output.message("NOTICE", text)

    def _end(self, subscription: str) -> None:
        self.subscriptions.pop(subscription, None)
        self._requests.pop(subscription, None)
        self._raw_filters.pop(subscription, None)
        task = self._pages.pop(subscription, None)
        if task is not None:
            task.cancel()

    async def _req(self, subscription: str, filters: list[Any]) -> None:
        self._note(Req, subscription=subscription, filters=tuple(filters))
        behaviour = self.behaviour
        if behaviour.repeated_req_ignored and self._raw_filters.get(subscription) == filters:
            return
        refusal = self._auth_refusal() or self._refusal(subscription, filters)
        queries: list[Query] = []
        try:
            queries = [Query.read(value) for value in filters]
        except InvalidFilter:
            refusal = refusal or behaviour.invalid_refusal
        if refusal is None and any(query.score < behaviour.min_filter_score for query in queries):
            # nostr-rs-relay's `limit_scrapers`: the whole REQ counts as answered, and is no subscription.
            refusal = Refusal(How.EOSE)
        if refusal is not None:
            await self._refuse(refusal, subscription)
            return
        before = self._requests.get(subscription, []) if behaviour.adds_requests else []
        self._end(subscription)
        self._requests[subscription] = [*before, queries]
        self.subscriptions[subscription] = [query for each in self._requests[subscription] for query in each]
        self._raw_filters[subscription] = filters
        page = self._relay.store.page(queries, behaviour)
        self._pages[subscription] = asyncio.create_task(self._page(subscription, page))

    def _auth_refusal(self) -> Refusal | None:
        demand = self.behaviour.auth
        if demand is None:
            return None
        if self._intake.needs_auth(writes=False):
            if not demand.on_connect:
                self._intake.challenge()
            return Refusal(How.CLOSED, "auth-required: authenticate first")
        return None if demand.restricted is None else Refusal(How.CLOSED, demand.restricted)

    def _refusal(self, subscription: str, filters: list[Any]) -> Refusal | None:
        """Why this REQ is not answered, if so."""
        behaviour = self.behaviour
        opened = len(self.subscriptions.keys() - {subscription})
        if behaviour.max_subscriptions is not None and opened >= behaviour.max_subscriptions:
            return behaviour.subscriptions_refusal
        if behaviour.max_filters is not None and len(filters) > behaviour.max_filters:
            return behaviour.filters_refusal
        lists = [value for one in filters if isinstance(one, dict) for value in one.values() if isinstance(value, list)]
        if behaviour.max_items is not None and any(len(items) > behaviour.max_items for items in lists):
            return behaviour.items_refusal
        for refusal in behaviour.refusals:
            chosen = refusal.when is None or refusal.when(filters)
            if chosen and self._relay.turn(refusal, skip=refusal.skip, times=refusal.times):
                return refusal
        return None

    async def _refuse(self, refusal: Refusal, subscription: str) -> None:
        self._note(Refused, subscription=subscription, how=refusal.how, reason=refusal.reason)
        await self.output.misbehave(refusal.how, refusal.reason, subscription)

    async def _page(self, subscription: str, page: Page) -> None:
        """Send a page to its end, or break it off as the script says."""
        behaviour = self.behaviour
        try:
            await asyncio.sleep(behaviour.answer_delay_s)
            self.output.frames([text.encode() if isinstance(text, str) else text for text in behaviour.garbage])
            self.output.frames([event_frame(subscription, event) for event in behaviour.unasked])
            if await self._interrupted(subscription, page.events, behaviour):
                return
            await self.output.events(subscription, page.events)
            if page.events:
                self._relay.let_arrive(behaviour.arrivals_a_page)
            await asyncio.sleep(behaviour.eose_delay_s)
        except ConnectionClosed:
            return
        if await self._closed(subscription, page):
            return
        self._note(Answered, subscription=subscription, events=len(page.events))
        is_live = all(query.limit == 0 for query in self.subscriptions.get(subscription, ()))
        if behaviour.eose and (behaviour.live_eose or not is_live):
            hints = [["finish" if page.complete else "more"]] if behaviour.eose_hint else []
            self.output.message("EOSE", subscription, *hints)

    async def _closed(self, subscription: str, page: Page) -> bool:
        """Whether the page ends by a CLOSED although nothing was wrong with it."""
        behaviour, queries = self.behaviour, self.subscriptions.get(subscription, [])
        reason = None
        if behaviour.closes_ids and any(query.ids is not None for query in queries):
            reason = ""
        elif behaviour.closes_withheld is not None and self._relay.store.selects_withheld(queries, behaviour):
            reason = behaviour.closes_withheld
        if reason is None:
            return False
        await self._refuse(Refusal(How.CLOSED, reason), subscription)
        return True

    async def _interrupted(self, subscription: str, events: Sequence[SignedEvent], behaviour: Behaviour) -> bool:
        most = behaviour.breaks_off_after
        cut = behaviour.interruption
        if most is not None and len(events) > most:
            cut = Interruption(most, How.CLOSED, "get event error: Scan timeout")
        if cut is None or len(events) < cut.after_events or not self._relay.turn(cut, times=cut.times):
            return False
        await self.output.events(subscription, events[: cut.after_events])
        self._note(Refused, subscription=subscription, how=cut.how, reason=cut.reason)
        await self.output.misbehave(cut.how, cut.reason, subscription)
        return True

    def offer(self, event: SignedEvent) -> int:
        """Hand a live event to the subscriptions that want it; returns to how many."""
        behaviour = self.behaviour
        if not behaviour.live or behaviour.deaf:
            return 0
        frames: list[bytes] = []
        reached = 0
        requests = [(subscription, each) for subscription, all_ in self._requests.items() for each in all_]
        for subscription, queries in requests:
            served = queries[:1] if behaviour.live_first_filter else queries
            if behaviour.empty_filter_matches_nothing:
                served = [query for query in served if not query.unconditional]
            if not any(query.matches(event, ignore_times=behaviour.live_ignores_times) for query in served):
                continue
            self._live += 1
            if behaviour.live_loses_every is not None and self._live % behaviour.live_loses_every == 0:
                continue
            reached += 1
            frames += self.output.event_frames(subscription, event)
        if frames:
            self.output.frames(frames)
        return reached
