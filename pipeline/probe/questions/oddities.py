"""How the relay answers filters that mean little, and what is no request at all."""

from dataclasses import dataclass
from typing import Final

from pipeline.probe.exchange import Ask, Awaited, Channel, End, frame, req
from pipeline.probe.known import Known, Steps
from pipeline.probe.observation import Observation, refused, unknown


@dataclass(frozen=True, slots=True)
class Oddity:
    """A filter that means nothing, or little: whether it is refused, ignored or matches nothing."""

    name: str
    member: str
    value: object

    @property
    def names(self) -> tuple[str, ...]:
        """Its line."""
        return (f"odd.{self.name}",)

    def ask(self, known: Known) -> Steps:
        """Ask for an event that is known, with the odd member beside the others."""
        name = self.names[0]
        controls = known.controls()
        if not controls:
            return [unknown(name, "no event to check with")]
        control = controls[0]
        query = {"authors": [control.pubkey.hex()], "kinds": [control.kind], "limit": 20}
        plain = yield req(known.new_id(), query)
        answer = yield req(known.new_id(), {**query, self.member: self.value})
        if answer.complaint is not None and not answer.events:
            return [refused(name, answer)]
        if answer.is_answered:
            if not plain.events:
                return [unknown(name, "the filter without it brings nothing")]
            return [Observation(name, "ignored" if answer.events else "matches nothing")]
        return [refused(name, answer, "no answer" if answer.end is End.SILENCE else "refused")]


ODDITIES: Final = (
    Oddity("empty_tag_list", "#p", []),
    Oddity("empty_kinds", "kinds", []),
    Oddity("unknown_member", "probe", "x"),
    Oddity("search", "search", "zxqjprobe"),
    Oddity("short_id", "#e", ["ab"]),
)


@dataclass(frozen=True, slots=True)
class Nonsense:
    """How the relay answers what is no request: `text` is sent as it stands."""

    name: str
    text: str

    @property
    def names(self) -> tuple[str, ...]:
        """Its line."""
        return (f"odd.{self.name}",)

    def ask(self, known: Known) -> Steps:
        """Send it and take whatever comes."""
        answer = yield Ask((self.text,), "none", Awaited.MESSAGE, line=Channel.FRESH, repeats=False)
        value = {End.SILENCE: "silence", End.LOST: "connection closed"}.get(answer.end, answer.end.value)
        return [Observation(self.names[0], value, says=answer.words)]


NONSENSE: Final = (
    Nonsense("unknown_command", frame("PROBE", "x")),
    Nonsense("no_json", "event-service probe"),
    Nonsense("empty_subscription", frame("REQ", "", {"kinds": [1], "limit": 1})),
)
