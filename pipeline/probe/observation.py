"""What is seen of a relay, one line each."""

from dataclasses import dataclass

from pipeline.probe.exchange import Reply


@dataclass(frozen=True, slots=True)
class Observation:
    """One line. `value` None: it cannot be told, and `note` says why.

    `is_least`: the relay takes more than was asked. `how`: the way in which it refuses more, or answers; `says`: its
    own words, of whatever a stranger may write.
    """

    name: str
    value: bool | int | str | None
    is_least: bool = False
    how: str = ""
    says: str = ""
    note: str = ""

    @property
    def section(self) -> str:
        """The heading that it stands under."""
        return self.name.partition(".")[0]


def unknown(name: str, why: str) -> Observation:
    """Return the line for what cannot be told."""
    return Observation(name, None, note=why)


def refused(name: str, answer: Reply, value: bool | int | str | None = "refused") -> Observation:
    """Return the line for what the relay refuses, in its words."""
    return Observation(name, value, how=answer.manner, says=answer.words)
