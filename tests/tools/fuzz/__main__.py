"""Fuzzes the parsers that strangers reach, guided by coverage, each in a process of its own.

A finding ends its target: the input is kept in the corpus folder as crash-…, timeout-… or oom-… and can be run again
with --input. The corpus is kept between runs, so that the next one begins where this one ended.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.tools.fuzz.targets import TARGETS

MAX_INPUT_BYTES = 4096
# One input may take this long, and its process this much memory, before it counts as a finding.
MAX_INPUT_S = 5
MAX_MEMORY_MB = 1024


def main() -> int:
    """Run the targets asked for; the number of findings is told, and is the exit code's reason."""
    parser = argparse.ArgumentParser(prog="bin/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)}; default: all")
    parser.add_argument("--minutes", type=float, default=30.0, help="in all, shared out evenly (default: 30)")
    parser.add_argument("--corpus", type=Path, help="folder for what was found worth keeping (default: temporary)")
    parser.add_argument("--input", type=Path, metavar="FILE", help="run one target on this input alone")
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if options.input is not None:
        if len(names) != 1:
            parser.error("--input goes with one target")
        TARGETS[names[0]].check(options.input.read_bytes())
        print("nothing wrong")
        return 0
    with tempfile.TemporaryDirectory(prefix="event-service-fuzz-") as scratch:
        corpus = options.corpus or Path(scratch)
        seconds = max(1, round(options.minutes * 60 / len(names)))
        failed = [name for name in names if not _fuzz(name, corpus / name, seconds, TARGETS[name].seeds)]
        for name in failed:
            print(f"{name}: something is wrong, see above")
            if options.corpus is None:
                _show(sorted((corpus / name).glob("crash-*")))
    print(f"{len(names) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def _fuzz(name: str, folder: Path, seconds: int, seeds: Sequence[bytes]) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    command = [
        sys.executable, "-m", "tests.tools.fuzz.child", name, str(folder), f"-artifact_prefix={folder}/",
        f"-max_total_time={seconds}", f"-max_len={MAX_INPUT_BYTES}", f"-timeout={MAX_INPUT_S}",
        f"-rss_limit_mb={MAX_MEMORY_MB}", "-print_final_stats=1", "-verbosity=0",
    ]  # fmt: skip
    before = os.times()
    done = subprocess.run(command, check=False)
    cpu_s = os.times().children_user - before.children_user
    found = "no finding" if done.returncode == 0 else "FOUND SOMETHING"
    print(f"{name}: {found} in {seconds} s, {cpu_s:.0f} s of the processor", flush=True)
    return done.returncode == 0


def _show(inputs: Sequence[Path]) -> None:
    for path in inputs:
        print(f"  {path.name}: {path.read_bytes()!r}")


if __name__ == "__main__":
    sys.exit(main())
