"""One variable that the service reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

_HIDDEN: Final = "(hidden)"


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable: how it is read, its default as text (`None`: no default) and what it means."""

    name: str
    field: str
    parse: Callable[[str], Any]
    default: str | None
    meaning: str
    format: Callable[[Any], str] = str
    empty_means_none: bool = False
    secret: bool = False
    live: bool = False
    """True if a running process applies it when its environment file is read again."""

    def read(self, env: Mapping[str, str]) -> Any:
        """Return the value that `env` gives, else the default; `None` if there is neither."""
        text = env.get(self.name)
        if text is not None and not text.strip():
            text = "" if self.empty_means_none else None
        if text is None:
            text = self.default
        return None if text is None else self.parse(text)

    def show(self, value: Any) -> str:
        """Return `value` as text for an operator; secrets are hidden."""
        if value is None:
            return ""
        return _HIDDEN if self.secret else self.format(value)
