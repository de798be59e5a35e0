"""Starts rnostr or nostr-rs-relay with a configuration of its own.

    rust_relay.py PROGRAM ADDRESS PORT FOLDER [SECTION.NAME=VALUE …]

PROGRAM is its path; values are as in TOML, all else is the default of the program.
"""

import os
import sys
from collections import defaultdict
from pathlib import Path


def main() -> None:
    """Write the configuration and become the relay."""
    program, address, port, folder, *pairs = sys.argv[1:]
    path = Path(folder) / "config.toml"
    if Path(program).name == "rnostr":
        pairs = [f'network.host="{address}"', f"network.port={port}", f'data.path="{folder}/data"', *pairs]
        command = [program, "relay", "-c", str(path)]
    else:
        pairs = [f'network.address="{address}"', f"network.port={port}", *pairs]
        command = [program, "--db", folder, "--config", str(path)]
    sections: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        section, _, setting = pair.partition(".")
        sections[section].append(setting)
    path.write_text("\n".join("\n".join([f"[{name}]", *lines]) for name, lines in sections.items()) + "\n")
    os.execv(program, command)


if __name__ == "__main__":
    main()
