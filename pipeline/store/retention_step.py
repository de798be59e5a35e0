"""One step of retention over a table: short, so that the write lock is free again soon."""

from dataclasses import dataclass
from typing import Generic, TypeVar

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class RetentionBatch(Generic[_Key]):
    """Rows looked at, rows dropped, and the key of the last one, after which the next step begins.

    A step that looked at fewer rows than it was allowed has come to the end of the table.
    """

    looked_at: int
    dropped: int
    last: _Key
