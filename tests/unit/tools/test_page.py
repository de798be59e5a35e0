"""The page of tests/tools names every program there, and each has its command."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
TOOLS = ROOT / "tests" / "tools"


def test_page_has_a_row_for_every_program_and_no_other() -> None:
    programs = {path.parent.name for path in TOOLS.glob("*/__main__.py")}
    rows = re.findall(r"^\| `bin/(\w+)` \|", (TOOLS / "README.md").read_text(), re.MULTILINE)
    assert len(programs) >= 7
    assert sorted(rows) == sorted(programs)
    for name in programs:
        assert f"-m tests.tools.{name} " in (ROOT / "bin" / name).read_text()
