"""The shape of a Google credentials file, as far as it can be checked without Google."""

import json
from pathlib import Path
from typing import Any, Final

# By the type of a credentials file, the fields that Google's library needs.
_CREDENTIAL_FIELDS: Final = {
    "service_account": ("client_email", "private_key", "token_uri"),
    "authorized_user": ("client_id", "client_secret", "refresh_token"),
    "external_account": ("audience", "subject_token_type", "token_url"),
    "external_account_authorized_user": (),
    "impersonated_service_account": ("service_account_impersonation_url",),
    "gdch_service_account": (),
}

_MAX_KEY_FILE_BYTES: Final = 1 << 20


def credentials_problem(path: Path) -> str | None:
    """Return why Google's library cannot read the file at `path`, by its shape; `None` if it may.

    Never quotes its content.
    """
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_KEY_FILE_BYTES))
    except (OSError, ValueError, RecursionError):
        return f"{path} is no credentials file: it is not JSON"
    fields: dict[str, Any] = found if isinstance(found, dict) else {}
    kind = fields.get("type", "service_account")
    if not isinstance(kind, str) or kind not in _CREDENTIAL_FIELDS:
        return f"{path} is no credentials file: its type is none of {', '.join(_CREDENTIAL_FIELDS)}"
    missing = [name for name in _CREDENTIAL_FIELDS[kind] if not isinstance(fields.get(name), str)]
    return f"{path} is no {kind} credentials file: it lacks {', '.join(missing)}" if missing else None
