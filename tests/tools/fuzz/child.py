"""One target under the fuzzer: `python -m tests.tools.fuzz.child NAME CORPUS [libFuzzer options]`."""

import sys

import atheris

with atheris.instrument_imports(include=["pipeline"]):
    from tests.tools.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until the options say that it is enough, or something is found."""
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name].check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
