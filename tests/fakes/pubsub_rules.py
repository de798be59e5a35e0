"""How the fake Pub/Sub misbehaves: rules that choose publish calls and say what becomes of them."""

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """One misbehaviour and the Publish calls that it meets. The first rule of a script that meets a call is played.

    Chosen are calls with a message whose bytes contain `containing` (an event id, say) and with at least
    `min_messages` messages; of these the first `skip` are left alone, then every `every`-th is met, at most `times`.

    `delay_s` comes first. `store` takes the messages although the answer is an error. `status` is a gRPC status name
    such as UNAVAILABLE; without it the call is answered as usual. `hang` never answers; `die` ends the server.
    """

    status: str | None = None
    detail: str = "as the script says"
    containing: str | None = None
    min_messages: int = 0
    skip: int = 0
    every: int = 1
    times: int | None = None
    delay_s: float = 0.0
    store: bool = False
    hang: bool = False
    die: bool = False


class Script:
    """Rules with the count of how often each was met; thread-safe."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self._needles = [None if rule.containing is None else rule.containing.encode() for rule in self.rules]
        self._met = [0] * len(self.rules)
        self._lock = threading.Lock()

    def choose(self, messages: Sequence[bytes]) -> Rule | None:
        """The rule to play for a call with these raw messages, counted as played."""
        if not self.rules:
            return None
        with self._lock:
            for index, rule in enumerate(self.rules):
                if self._meets(index, rule, messages):
                    return rule
        return None

    def _meets(self, index: int, rule: Rule, messages: Sequence[bytes]) -> bool:
        needle = self._needles[index]
        if len(messages) < rule.min_messages:
            return False
        if needle is not None and not any(needle in message for message in messages):
            return False
        turn, rest = divmod(self._met[index] - rule.skip, rule.every)
        self._met[index] += 1
        return turn >= 0 and rest == 0 and (rule.times is None or turn < rule.times)


def rules_from_json(text: str) -> list[Rule]:
    """Read a list of objects with `Rule`'s members. Raises `TypeError` or `ValueError`."""
    return [Rule(**members) for members in json.loads(text)]


def rules_to_json(rules: Sequence[Rule]) -> str:
    """What `rules_from_json` reads."""
    return json.dumps([asdict(rule) for rule in rules])
