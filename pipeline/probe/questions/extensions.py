"""What else the relay speaks: authentication (NIP-42), counts (NIP-45), EOSE hints (NIP-67), sets (NIP-77)."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar, Final

from pipeline.nostr.auth import auth_event
from pipeline.nostr.event import Event, sign
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import DELETION
from pipeline.nostr.message import encode_auth, encode_event, encode_neg_msg, encode_neg_open
from pipeline.nostr.negentropy import InvalidNegentropy, ItemSet, Reconciliation
from pipeline.printable import count_of
from pipeline.probe.exchange import Ask, Awaited, Channel, End, Reply, frame, req
from pipeline.probe.known import Known, Steps, stranger
from pipeline.probe.observation import Observation, refused, unknown

# Some relays take five seconds to their first answer.
_SLOW: Final = 3.0
_MOST_ROUNDS: Final = 8


@dataclass(frozen=True, slots=True)
class Challenge:
    """Whether the relay challenges at once, and what it says to an AUTH by a key that it never heard of."""

    names: ClassVar = ("nip42.challenge", "nip42.auth")
    address: str
    """How an AUTH names the relay."""

    def ask(self, known: Known) -> Steps:
        """Answer the challenge that a new connection begins with."""
        first, second = self.names
        answer = yield req(known.new_id(), {"kinds": [1], "limit": 1}, line=Channel.FRESH)
        if answer.challenge is None:
            answer = yield req(known.new_id(), {"kinds": [4, 1059], "limit": 1})
            if answer.challenge is None:
                return [Observation(first, "none"), unknown(second, "there is no challenge to answer")]
            found = Observation(first, "with a refusal")
        else:
            found = Observation(first, "at once, or with the first request")
        challenge = answer.challenge
        event = auth_event(known.secret, self.address, challenge, known.now)
        verdict = yield Ask((encode_auth(event),), event.id.hex(), Awaited.OK, repeats=False)
        if verdict.end is End.OK:
            value = "accepted" if verdict.accepted else "refused"
            return [found, Observation(second, value, how="OK", says=verdict.text)]
        return [found, refused(second, verdict, "no verdict" if verdict.end is End.SILENCE else "refused")]


@dataclass(frozen=True, slots=True)
class CountMessage:
    """Whether COUNT is answered, and by the number of events that come."""

    names: ClassVar = ("nip45.count",)

    def ask(self, known: Known) -> Steps:
        """Count the events of an author."""
        name = self.names[0]
        controls = known.controls()
        author = controls[0].pubkey.hex() if controls else stranger(9)
        kind = controls[0].kind if controls else 1
        query = {"authors": [author], "kinds": [kind]}
        subscription = known.new_id()
        answer = yield Ask((frame("COUNT", subscription, query),), subscription, repeats=False)
        if answer.end is not End.COUNT or answer.count is None:
            return [refused(name, answer, "no answer" if answer.end is End.SILENCE else "refused")]
        came = yield req(known.new_id(), {**query, "limit": 500})
        note = f"says {answer.count:,}, {len(came.events):,} come"
        return [Observation(name, "right" if answer.count == len(came.events) else "another number", note=note)]


@dataclass(frozen=True, slots=True)
class EoseHint:
    """Whether EOSE says if there is more."""

    names: ClassVar = ("nip67.hint",)

    def ask(self, known: Known) -> Steps:
        """Ask for one event."""
        answer = yield req(known.new_id(), {"kinds": [1], "limit": 1})
        if answer.end is not End.EOSE:
            return [unknown(self.names[0], "notes are refused")]
        return [Observation(self.names[0], answer.finished is not None)]


@dataclass(frozen=True, slots=True)
class SetComparison:
    """Whether sets are compared, and rightly: the ids that it names against the events that it showed."""

    names: ClassVar = ("nip77.compares",)

    def ask(self, known: Known) -> Steps:
        """Compare what an author wrote with nothing."""
        name = self.names[0]
        controls = known.controls()
        author = controls[0].pubkey if controls else bytes.fromhex(stranger(9))
        query = Filter(authors=frozenset({author}), kinds=frozenset({controls[0].kind if controls else 1}))
        known_ids = {each.id for each in controls if query.matches(each)}
        set_aside = Reconciliation(ItemSet(()))
        subscription = f"N{known.new_id()}"
        text = encode_neg_open(subscription, query, set_aside.open())
        answer = yield Ask((text,), subscription, patience=_SLOW, repeats=False, line=Channel.FRESH)
        took = answer.took_s
        for _ in range(_MOST_ROUNDS):
            if answer.end is not End.NEGENTROPY:
                return [refused(name, answer, "no answer" if answer.end is End.SILENCE else "refused")]
            try:
                message = set_aside.receive(answer.payload)
            except InvalidNegentropy as error:
                return [Observation(name, "breaks the protocol", says=str(error))]
            if message is None:
                break
            answer = yield Ask((encode_neg_msg(subscription, message),), subscription, patience=_SLOW, repeats=False)
        return [_compared(name, set_aside.need, known_ids, took)]


def _compared(name: str, named: set[bytes], known_ids: Iterable[bytes], took_s: float) -> Observation:
    wanted = set(known_ids)
    found = f"{len(wanted & named)} of {len(wanted)} known ones"
    note = f"names {count_of(len(named), 'id')}, {found}; first answer {took_s:.1f} s"
    if not wanted:
        return Observation(name, "answered", note=f"{note}; no event is known to check with")
    return Observation(name, "right" if wanted <= named else "leaves events out", note=note)


@dataclass(frozen=True, slots=True)
class Withheld:
    """Whether messages of a confidential kind (4, 1059) are shown to whom they do not concern."""

    kind: int

    @property
    def names(self) -> tuple[str, ...]:
        """Its lines."""
        return (f"withheld.kind_{self.kind}", f"withheld.list_with_{self.kind}")

    def ask(self, known: Known) -> Steps:
        """Ask for them alone, then beside notes; publish one before, and delete it after, where that is allowed."""
        # The throw-away key itself may be shown what concerns it.
        secret = sha256(b"another" + known.secret).digest()
        event = self._signed(secret, known.now - 40, [["p", stranger(12)]])
        if known.published:
            known.offer(secret, event)
        verdict = (yield _publish(event)) if known.published else None
        is_there = verdict is not None and bool(verdict.accepted)
        found = [(yield from self._alone(known, event if is_there else None)), (yield from self._beside_notes(known))]
        if is_there:
            yield _publish(self._signed(secret, known.now, [["e", event.id.hex()]], DELETION))
            known.offered.pop(secret, None)
            # A page without it is not cut off.
            known.pool.pop(event.id, None)
        return found

    def _signed(self, secret: bytes, at: int, tags: list[list[str]], kind: int | None = None) -> Event:
        kind = self.kind if kind is None else kind
        return sign(secret, created_at=at, kind=kind, tags=tags, content="event-service probe")

    def _alone(self, known: Known, event: Event | None) -> Generator[Ask, Reply, Observation]:
        """Ask for the kind and nothing else, by the author of what was published; count where nothing comes."""
        name = self.names[0]
        mine = {} if event is None else {"authors": [event.pubkey.hex()]}
        answer = yield req(known.new_id(), {"kinds": [self.kind], **mine, "limit": 3})
        if answer.events:
            return Observation(name, "shown")
        if event is not None and answer.is_answered:
            return Observation(name, "withheld silently")
        if known.is_refused_as_ever(answer):
            return unknown(name, "notes are refused alike")
        if answer.complaint is not None or not answer.is_answered:
            return refused(name, answer)
        subscription = known.new_id()
        counted = yield Ask((frame("COUNT", subscription, {"kinds": [self.kind]}),), subscription, repeats=False)
        return _withheld(name, counted)

    def _beside_notes(self, known: Known) -> Generator[Ask, Reply, Observation]:
        """Ask for notes that are known and for the kind at once."""
        name = self.names[1]
        control = next(iter(known.controls(_is_note)), None)
        author = {} if control is None else {"authors": [control.pubkey.hex()]}
        answer = yield req(known.new_id(), {"kinds": [1, self.kind], **author, "limit": 100})
        if control is not None and control.id in answer.ids:
            shown = "notes are shown"
            is_whole = answer.end is End.EOSE and not answer.notices
            return Observation(name, shown) if is_whole else refused(name, answer, shown)
        if known.is_refused_as_ever(answer) or answer.is_answered:
            return unknown(name, "no note to check with")
        return refused(name, answer)


def _publish(event: Event) -> Ask:
    return Ask((encode_event(event),), event.id.hex(), Awaited.OK)


def _is_note(event: Event) -> bool:
    return event.kind == 1


def _withheld(name: str, counted: Reply) -> Observation:
    if counted.end is End.COUNT and counted.count:
        return Observation(name, "withheld silently", note=f"COUNT says {counted.count:,}, none comes")
    return unknown(name, "none came; there may be none")
