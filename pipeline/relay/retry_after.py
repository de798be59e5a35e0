"""`Retry-After` (RFC 9110 section 10.2.3): for how long a server wants to be left alone. Pure."""

from email.utils import parsedate_to_datetime
from typing import Final

MAX_RETRY_AFTER_S: Final = 86_400
"""Who wants to be left alone for longer is tried again after a day."""


def retry_after_s(value: str, date: str, now_s: int) -> int | None:
    """Return the seconds that `value` asks for, at most `MAX_RETRY_AFTER_S`; None where it says nothing usable.

    It is a number of seconds, or an HTTP date; that is compared with `date`, the server's own clock, or with `now_s`
    (Unix seconds) where the server did not tell it.
    """
    if value.isascii() and value.isdigit():
        return min(int(value[:9]), MAX_RETRY_AFTER_S)
    until = _unix(value)
    if until is None:
        return None
    since = _unix(date)
    return max(0, min(until - (now_s if since is None else since), MAX_RETRY_AFTER_S))


def _unix(date: str) -> int | None:
    try:
        return int(parsedate_to_datetime(date).timestamp())
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
