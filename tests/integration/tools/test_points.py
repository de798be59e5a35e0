"""The named points at which chaos kills are points that the service still comes to."""

import re

import pytest

from tests.fakes.child import ROOT
from tests.tools.chaos.point_faults import STATEMENTS

SOURCE = "\n".join(path.read_text() for path in sorted((ROOT / "pipeline" / "store").glob("*.py")))
OFTEN_MADE = ("COMMIT", "DELETE FROM inbox", "DELETE FROM outbox", "UPDATE inbox", "UPDATE outbox")
"""Those whose text is put together from the name of a table, or that are nobody's own."""


@pytest.mark.parametrize("statement", sorted({each for every in STATEMENTS.values() for each in every}))
def test_a_statement_begins_like_that(statement: str) -> None:
    assert statement in OFTEN_MADE or re.search(rf'"\s*{re.escape(statement)}\b', SOURCE), statement
