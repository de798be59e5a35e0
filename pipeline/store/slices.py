"""One step of a walk over a table, as retention takes it: short, so that nobody waits for the write lock."""

from dataclasses import dataclass
from typing import Generic, TypeVar

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Slice(Generic[_Key]):
    """Rows looked at, rows dropped, and the key of the last one, after which the next step begins.

    A step that looked at fewer rows than it was allowed has come to the end of the table.
    """

    looked_at: int
    dropped: int
    last: _Key
