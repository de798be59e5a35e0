"""Whether a sink takes what it is offered, by what became of the calls to it. Pure; times are monotonic seconds."""

import math
from dataclasses import dataclass, field
from typing import Final

from pipeline.sinks.base import SinkDown

LASTING_S: Final = 5.0
"""What is shorter, and not an operator's to mend, is not worth a word to them."""


@dataclass(slots=True)
class Answers:
    """When the sink last answered any of the threads that share this."""

    latest_s: float = -math.inf


@dataclass(slots=True)
class Outage:
    """What the calls of one thread say of the sink `name`, in the light of what others were answered meanwhile."""

    name: str
    answers: Answers = field(default_factory=Answers)
    failures: int = 0
    """Calls that failed, in a row."""
    _calling_since_s: float | None = None
    _failing_since_s: float = math.inf
    _words: str = ""
    _needs_operator: bool = False

    def called(self, now_s: float) -> None:
        """A call begins."""
        self._calling_since_s = now_s

    def heard(self, now_s: float) -> None:
        """The sink said something to the call under way, or owes it nothing yet."""
        self._calling_since_s = self.answers.latest_s = now_s

    def worked(self, now_s: float) -> None:
        """The call is over, and the sink is not down."""
        self.answers.latest_s = now_s
        self.over()

    def failed(self, error: SinkDown, now_s: float) -> None:
        """The call failed; while an outage goes on it keeps its words, and so its age."""
        if not self.failures:
            self._failing_since_s = now_s if self._calling_since_s is None else self._calling_since_s
        self.failures += 1
        self._calling_since_s = None
        self._needs_operator = bool(error.advice)
        what = f"sink {self.name} is down: {error.reason}"
        if not self._words.startswith(what):
            self._words = f"{what}: {error.advice or error.detail}"

    def over(self) -> None:
        """Nothing is offered any more, so nothing is known."""
        self.failures = 0
        self._calling_since_s, self._failing_since_s = None, math.inf
        self._words, self._needs_operator = "", False

    def trouble(self, now_s: float) -> str:
        """What an operator should know; empty while the sink works, or may do so again by itself soon."""
        if self._words and (self._needs_operator or self._lasts(self._failing_since_s, now_s)):
            return self._words
        if self._calling_since_s is not None and self._lasts(self._calling_since_s, now_s):
            return f"sink {self.name} does not answer"
        return ""

    def _lasts(self, since_s: float, now_s: float) -> bool:
        return now_s - max(since_s, self.answers.latest_s) >= LASTING_S
