"""The delivery oracle: what relays held on one side, what was delivered on the other, and the difference.

Give a `DeliveryOracle` what each relay offers and who registered; `DeliveryOracle.judge` compares that with what the
sink took. Every payload is read and verified with this package's own code.
"""

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.factories.events import SignedEvent, from_raw, is_authentic
from tests.oracle.relevance import Holding, Horizon, Relevance, Verdict

UUID_ATTRIBUTE = "_watermill_message_uuid"
MAX_ATTRIBUTES = 100
MAX_ATTRIBUTE_NAME = 256
MAX_ATTRIBUTE_VALUE = 1024
"""Pub/Sub refuses more, and longer ones (bytes); the emulator takes them."""
FIELDS = frozenset({"id", "pubkey", "created_at", "kind", "tags", "content", "sig"})
MAX_LISTED = 10
"""How many ids of one sort the readable text lists."""
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_LOWER_HEX = re.compile(r"[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Delivered:
    """One message that a sink took; `attributes` is `None` where the sink has none, `arrived_at` is Unix seconds."""

    data: bytes
    attributes: Mapping[str, str] | None = None
    arrived_at: float | None = None


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One difference: the event (or message number) and why, for a reader."""

    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """The verdict on a run. `duplicates`: how often each id came that came more than once; allowed, but told.

    `latencies_ms` holds p50, p99 and the maximum from available to arrived, for events that came in live.
    """

    expected: int
    messages: int
    distinct: int
    lost: tuple[Discrepancy, ...]
    extra: tuple[Discrepancy, ...]
    invalid: tuple[Discrepancy, ...]
    uuid_changes: tuple[Discrepancy, ...]
    duplicates: Mapping[str, int]
    latencies_ms: Mapping[str, float]

    @property
    def clean(self) -> bool:
        """Nothing lost, nothing wrong; repeats are allowed."""
        return not (self.lost or self.extra or self.invalid or self.uuid_changes)

    @property
    def exactly_once(self) -> bool:
        """Clean, and nothing came twice."""
        return self.clean and not self.duplicates

    def text(self) -> str:
        """A page for a reader."""
        repeats = sum(self.duplicates.values()) - len(self.duplicates)
        lines = [
            f"{'clean' if self.clean else 'NOT CLEAN'}: {self.expected} expected, {self.messages} messages, "
            f"{self.distinct} distinct, {len(self.lost)} lost, {len(self.extra)} extra, {len(self.invalid)} invalid, "
            f"{len(self.uuid_changes)} uuid changes, {repeats} repeats of {len(self.duplicates)} events"
        ]
        for name in ("lost", "extra", "invalid", "uuid_changes"):
            faults: tuple[Discrepancy, ...] = getattr(self, name)
            lines += [f"  {name}: {fault.subject}: {fault.detail}" for fault in faults[:MAX_LISTED]]
            if len(faults) > MAX_LISTED:
                lines.append(f"  {name}: and {len(faults) - MAX_LISTED} more")
        if self.latencies_ms:
            lines.append("  live latency ms: " + ", ".join(f"{k} {v:.1f}" for k, v in self.latencies_ms.items()))
        return "\n".join(lines)

    def to_json(self) -> str:
        """All of it, for a machine."""
        return json.dumps(asdict(self) | {"clean": self.clean, "exactly_once": self.exactly_once})


class DeliveryOracle:
    """What relays offered and who registered; not thread-safe."""

    def __init__(self, horizon: Horizon | None = None) -> None:
        self.horizon = horizon or Horizon()
        self.holdings: list[Holding] = []
        self.registered: set[str] = set()

    def hold(
        self,
        relay: str,
        events: Iterable[SignedEvent],
        *,
        available_at: float | None = None,
        live: bool = False,
    ) -> None:
        """Note that `relay` offers `events` from `available_at` on (Unix seconds; now by default).

        Leave out what the relay drops itself: older versions (`newest_versions`), refused or withheld kinds.
        """
        since = time.time() if available_at is None else available_at
        self.holdings.extend(Holding(event, relay, since, live) for event in events)

    def register(self, *pubkeys: str) -> None:
        """Note registered users by hex key."""
        self.registered.update(pubkeys)

    def relevance(self) -> Relevance:
        """The rules applied to what is noted so far."""
        return Relevance(self.holdings, self.registered, self.horizon)

    def required(self) -> set[str]:
        """Ids of what must come through, for a test that waits until it has."""
        return set(self.relevance().required())

    def judge(self, delivered: Iterable[Delivered]) -> DeliveryReport:
        """Compare what is noted with what was `delivered`."""
        return _Audit(self.relevance()).report(delivered)


class _Audit:
    def __init__(self, relevance: Relevance) -> None:
        self._relevance = relevance
        self._counts: Counter[str] = Counter()
        self._uuids: dict[str, set[str]] = defaultdict(set)
        self._invalid: list[Discrepancy] = []
        self._extra: dict[str, Discrepancy] = {}
        self._latencies: list[float] = []
        self._messages = 0

    def report(self, delivered: Iterable[Delivered]) -> DeliveryReport:
        for message in delivered:
            self._messages += 1
            self._take(message)
        required = self._relevance.required()
        return DeliveryReport(
            expected=len(required),
            messages=self._messages,
            distinct=len(self._counts),
            lost=tuple(self._lost(event_id, why) for event_id, why in required.items() if event_id not in self._counts),
            extra=tuple(self._extra.values()),
            invalid=tuple(self._invalid),
            uuid_changes=tuple(
                Discrepancy(event_id, " ".join(sorted(uuids)))
                for event_id, uuids in self._uuids.items()
                if len(uuids) > 1
            ),
            duplicates={event_id: count for event_id, count in self._counts.items() if count > 1},
            latencies_ms=_percentiles(self._latencies),
        )

    def _take(self, message: Delivered) -> None:
        event, faults = read_payload(message.data)
        if message.attributes is not None:
            faults += _attribute_faults(message.attributes)
        self._invalid += [Discrepancy(event.id if event else f"message {self._messages}", fault) for fault in faults]
        if event is None:
            return
        self._counts[event.id] += 1
        if message.attributes is not None:
            self._uuids[event.id].add(message.attributes.get(UUID_ATTRIBUTE, ""))
        self._judge(event)
        if message.arrived_at is not None and self._counts[event.id] == 1:
            live = [held.available_at for held in self._relevance.holdings.get(event.id, ()) if held.live]
            if live:
                self._latencies.append(message.arrived_at - min(live))

    def _judge(self, event: SignedEvent) -> None:
        held = self._relevance.events.get(event.id)
        if held is None:
            self._extra[event.id] = Discrepancy(event.id, f"kind {event.kind}, which no relay held")
        elif self._relevance.judge(held) is Verdict.MUST_NOT:
            self._extra[event.id] = Discrepancy(event.id, f"kind {event.kind} by {event.pubkey}, which no rule wants")

    def _lost(self, event_id: str, why: str) -> Discrepancy:
        event = self._relevance.events[event_id]
        relays = sorted({holding.relay for holding in self._relevance.holdings[event_id]})
        return Discrepancy(
            event_id, f"kind {event.kind}, created_at {event.created_at}, {why}, held by {', '.join(relays)}"
        )


def read_payload(data: bytes) -> tuple[SignedEvent | None, list[str]]:
    """The event in `data`, `None` when it is none that verifies, and everything that is wrong with it."""
    try:
        value: Any = json.loads(data)
        event = from_raw(data)
    except (ValueError, KeyError, TypeError) as error:
        return None, [f"no event JSON ({error!r}): {data[:80]!r}"]
    if not all(isinstance(value[name], str) for name in ("id", "pubkey", "content", "sig")):
        return None, [f"no event: {data[:80]!r}"]
    faults = []
    if set(value) != FIELDS:
        faults.append(f"fields {sorted(value)}")
    if not all(_LOWER_HEX.fullmatch(value[name]) for name in ("id", "pubkey", "sig")):
        faults.append("hex that is not lowercase")
    if is_authentic(event):
        return event, faults
    return None, [*faults, f"id or signature of {event.id} does not verify"]


def _attribute_faults(attributes: Mapping[str, str]) -> list[str]:
    uuid = attributes.get(UUID_ATTRIBUTE)
    if uuid is None:
        return [f"attribute {UUID_ATTRIBUTE} is missing"]
    faults = [] if _ULID.fullmatch(uuid) else [f"{uuid!r} is no ULID"]
    if len(attributes) > MAX_ATTRIBUTES:
        faults.append(f"{len(attributes)} attributes")
    for name, value in attributes.items():
        if not 0 < len(name.encode()) <= MAX_ATTRIBUTE_NAME or len(value.encode()) > MAX_ATTRIBUTE_VALUE:
            faults.append(f"attribute {name[:40]} has a name of {len(name)} and a value of {len(value)} characters")
    return faults


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    ordered = sorted(seconds)
    at = {"p50": len(ordered) // 2, "p99": len(ordered) * 99 // 100, "max": len(ordered) - 1}
    return {name: ordered[index] * 1000 for name, index in at.items()}


def delivered_lines(path: Path) -> list[Delivered]:
    """What a JSONL sink wrote, one event per line; a last line without its end is not taken."""
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    return [Delivered(line) for line in lines[:-1]]
