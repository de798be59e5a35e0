"""What shows only by publishing, with a throw-away key: verdicts, what is kept, what is withheld, deletion."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from pipeline.nostr.event import Event, public_key, sign
from pipeline.nostr.kinds import DELETION, TEXT_NOTE
from pipeline.nostr.message import encode_event
from pipeline.probe.exchange import Ask, Awaited, Channel, End, Reply, req
from pipeline.probe.known import Known, Steps, stranger
from pipeline.probe.observation import Observation, refused, unknown

_TAGGED_NOTES: Final = 6
_SPACING_S: Final = 600
# No letters whose values some relays check.
_LETTERS: Final = "bcfjnosvwyz"


def publish(event: Event, line: Channel = Channel.MAIN) -> Ask:
    """Return what publishes the event and waits for the verdict."""
    return Ask((encode_event(event),), event.id.hex(), Awaited.OK, line)


def signed(known: Known, at: int, about: str, kind: int = TEXT_NOTE, tags: Sequence[Sequence[str]] = ()) -> Event:
    """Return an event of the throw-away key, to be published, that says where it comes from."""
    content = f"event-service probe: {about}"
    event = sign(known.secret, created_at=at, kind=kind, tags=[list(tag) for tag in tags], content=content)
    known.offer(known.secret, event)
    return event


def verdict_on(name: str, answer: Reply) -> Observation:
    """Return the line for an event that was published."""
    if answer.end is End.OK:
        return Observation(name, "accepted" if answer.accepted else "refused", how="OK", says=answer.text)
    if answer.end is End.SILENCE:
        note = "what came names no event" if answer.garbage else ""
        return Observation(name, "no verdict", how=answer.manner, note=note)
    return refused(name, answer)


@dataclass(frozen=True, slots=True)
class Notes:
    """Notes ten minutes apart, with many tags: what all other questions may be checked with."""

    names: ClassVar = ("write.note", "write.stored", "write.duplicate", "write.wrong_signature")

    def ask(self, known: Known) -> Steps:
        """Publish some notes, one of them twice, and one with the signature of another."""
        note, stored, duplicate, wrong = self.names
        accepted: list[Event] = []
        found: Observation | None = None
        for number in range(_TAGGED_NOTES):
            event = signed(known, known.now - 60 - _SPACING_S * number, str(number), tags=_tags(number))
            answer = yield publish(event)
            found = found or verdict_on(note, answer)
            if answer.accepted:
                accepted.append(event)
                known.published.append(event)
            elif not accepted:
                return [found, *(unknown(name, "no note is accepted") for name in self.names[1:])]
        assert found is not None, "one was published"
        answer = yield req(known.new_id(), _mine(known))
        kept = sum(each.id in answer.ids for each in accepted)
        came = Observation(stored, kept == len(accepted), note=f"{kept} of {len(accepted)} come at once")
        if not kept and not answer.is_answered:
            came = unknown(stored, f"they may not be asked for by their author: {answer.words}")
        again = yield publish(accepted[0])
        forged = yield publish(replace(signed(known, known.now, "forged"), sig=accepted[0].sig))
        return [
            found,
            came,
            verdict_on(duplicate, again),
            verdict_on(wrong, forged),
        ]


def _tags(number: int) -> list[list[str]]:
    group = number % 2
    own = [["p", stranger(100 + group)], ["e", stranger(110 + group)], ["t", f"event-service-probe-{group}"]]
    return own + [[letter, f"event-service-probe-{letter}"] for letter in _LETTERS]


@dataclass(frozen=True, slots=True)
class Deletion:
    """Whether a deletion (NIP-09) is honoured; it takes back the notes that were published."""

    names: ClassVar = ("write.deletion",)

    def ask(self, known: Known) -> Steps:
        """Delete all that was published, and ask for it."""
        name = self.names[0]
        if not known.published:
            return [unknown(name, "nothing was published")]
        before = yield req(known.new_id(), _mine(known))
        answer = yield publish(deletion(known))
        known.is_taken_back = True
        if not answer.accepted:
            return [verdict_on(name, answer)]
        # Some relays answer the same filter from a cache.
        after = yield req(known.new_id(), {**_mine(known), "limit": 50})
        if not before.events or not (after.events or after.is_answered):
            return [unknown(name, "what was published cannot be asked for")]
        if after.ids & before.ids:
            # It may take its time.
            after = yield req(known.new_id(), {**_mine(known), "limit": 60})
        left, all_of_them = len(after.ids & before.ids), len(before.ids)
        value = "honoured" if not left else "ignored" if left == all_of_them else "honoured in part"
        return [Observation(name, value, note=f"{left} of {all_of_them} come still")]


def deletion(known: Known) -> Event:
    """Return the event that takes back all that the throw-away key may have published."""
    return deletion_by(known, known.secret)


def deletion_by(known: Known, secret: bytes) -> Event:
    """Return the same for another key of the probe."""
    tags = [["e", event_id.hex()] for event_id in known.offered.get(secret, ())]
    return sign(secret, created_at=known.now + 5, kind=DELETION, tags=tags, content="event-service probe: it is over")


def _mine(known: Known) -> dict[str, object]:
    """Return the filter that selects the notes of the throw-away key."""
    return {"authors": [public_key(known.secret).hex()], "kinds": [TEXT_NOTE], "limit": 40}
