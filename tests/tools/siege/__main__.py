"""Attacks the running service as strangers can and measures what its honest users notice.

Each attack meets a service of its own with the defaults, honest relays, users who register, and some ten events a
second. For each the table shows the delay from a relay to the sink, honest relays connected, registrations accepted,
the memory of the largest crawler, the growth of the database, and the service's processor time. Exit code 1 when a
promise of SECURITY.md is broken or an honest event in a hundred takes 250 ms or longer.
"""

import argparse
import json
import random
import sys
from pathlib import Path

from tests.tools.siege.report import as_value, broken, late, table
from tests.tools.siege.run import ATTACKS, alone


def main() -> int:
    """Play the attacks that are asked for, and print what came of each."""
    parser = argparse.ArgumentParser(prog="bin/siege", description=__doc__)
    parser.add_argument("--only", metavar="A,B", help="only these attacks; `list` prints all of them")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each lasts (default %(default)s)")
    parser.add_argument("--relays", type=int, default=20, help="honest relays of ours (default %(default)s)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave databases and logs there")
    options = parser.parse_args()
    if options.only == "list":
        print("\n".join(f"{attack.name:<20} {attack.what}" for attack in ATTACKS.values()))
        return 0
    names = options.only.split(",") if options.only else list(ATTACKS)
    if unknown := set(names) - ATTACKS.keys():
        parser.error(f"no such attack: {', '.join(sorted(unknown))}")
    print(f"seed {options.seed}", flush=True)
    outcomes = []
    for name in names:
        outcomes.append(alone(ATTACKS[name], options.seed, options.relays, options.seconds, options.keep))
        print(table(outcomes[-1:]), flush=True)
    if len(outcomes) > 1:
        print(f"\n{table(outcomes)}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([as_value(outcome) for outcome in outcomes], indent=1) + "\n")
    return 1 if any(broken(outcome) or late(outcome) for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
