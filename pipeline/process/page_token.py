"""The token that opens the local status page: who can read the runtime directory may read the page."""

import contextlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

_NAME: Final = "page-token"
_BYTES: Final = 16


def read_page_token(runtime_directory: Path) -> str | None:
    """Return the token of the service that runs there; None if it has none."""
    try:
        return (runtime_directory / _NAME).read_text().strip() or None
    except FileNotFoundError:
        return None


def make_page_token(runtime_directory: Path) -> str:
    """Return the token of the directory, made if it has none; it stays the same when the service restarts."""
    if (token := read_page_token(runtime_directory)) is not None:
        return token
    token = secrets.token_urlsafe(_BYTES)
    path = runtime_directory / _NAME
    written = path.with_name(f"{_NAME}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        written.unlink()
    descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token)
    written.replace(path)
    return token


def is_page_token(token: str, given: str) -> bool:
    """Return True if `given` is the token, in a time that is the same for every text."""
    return hmac.compare_digest(token.encode(), given.encode("utf-8", "replace"))
