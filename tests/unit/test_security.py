"""SECURITY.md: each row of what strangers can do is held by a test that exists, and by an attack that can be played."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.tools.siege.run import ATTACKS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT[TEXT.index("| they |") :].splitlines()[2:]
    if line.startswith("|")
]
_HELD_BY = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


@cache
def functions_in(path: str) -> frozenset[str]:
    module = ast.parse((ROOT / path).read_text())
    return frozenset(each.name for each in module.body if isinstance(each, ast.FunctionDef))


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_each_row_names_a_test_that_exists(row: list[str]) -> None:
    assert len(row) == 4
    found = _HELD_BY.fullmatch(row[3])
    assert found is not None, row[3]
    assert found[2] in functions_in(found[1])


def test_each_attack_that_a_row_names_can_be_played() -> None:
    named = {name for row in ROWS for name in re.findall(r"`([\w-]+)`", row[1])}
    assert named <= ATTACKS.keys()
    assert len(named) > 10
