"""Starts nostr-relay with a configuration of its own; run by the Python that it is installed for.

    nostr_relay.py ADDRESS PORT FOLDER [NAME=VALUE …]

Settings are those of its configuration file, as JSON; the rest is its default.
"""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Write the configuration, which may be JSON since it is read as YAML, and become the relay."""
    address, port, folder, *pairs = sys.argv[1:]
    config: dict[str, object] = {
        "storage": {
            "sqlalchemy.url": f"sqlite+aiosqlite:///{folder}/nostr.sqlite3",
            "validators": ["nostr_relay.validators.is_signed"],
        },
        "gunicorn": {"bind": f"{address}:{port}", "workers": 1, "loglevel": "warning"},
        "verification": {"nip05_verification": "disabled"},
    }
    config |= {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in pairs)}
    path = Path(folder) / "config.yaml"
    path.write_text(json.dumps(config))
    program = str(Path(sys.executable).with_name("nostr-relay"))
    os.execv(program, [program, "-c", str(path), "serve"])


if __name__ == "__main__":
    main()
