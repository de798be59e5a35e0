"""A sample that is started without its arguments says which it needs."""

import subprocess
import sys

import pytest

from tests.fakes.child import ROOT

SAMPLES = ROOT / "pipeline/docs/consumers"


@pytest.mark.parametrize("sample", sorted(path.name for path in SAMPLES.glob("*.py")))
@pytest.mark.parametrize("arguments", [(), ("test",), ("a", "b", "c", "d")], ids=len)
def test_wrong_arguments_end_in_one_line(sample: str, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, str(SAMPLES / sample), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"usage: python {sample} PROJECT SUBSCRIPTION")
    assert done.stderr.count("\n") == 1
