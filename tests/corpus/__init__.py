"""What is read and judged in tests: a small corpus of our own making, and a large one of real data where there is one.

Ours lies in `tests/data` and is made by `python -m tests.corpus.make`. The large one holds what people published and is
not part of the repository: a folder `corpus` in a folder beside the checkout, or the one that `TEST_CORPUS`
names. Tests hold the same of both; those of the large one are skipped without it.
"""

import gzip
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
_REAL_EVENTS = "events.jsonl.gz"


def _find_real() -> Path | None:
    named = os.environ.get("TEST_CORPUS")
    places = [Path(named)] if named else sorted(ROOT.parent.glob("*/corpus"))
    return next((place for place in places if (place / _REAL_EVENTS).is_file()), None)


REAL = _find_real()
needs_real = pytest.mark.skipif(REAL is None, reason="no corpus of real data beside the checkout")


@dataclass(frozen=True, slots=True)
class Corpus:
    """One of the two: its folder, and the events in it that are refused although their signatures are good."""

    folder: Path
    events_name: str
    refused: frozenset[str] = frozenset()

    def event_lines(self) -> list[bytes]:
        """All events, each the JSON text of one."""
        path = self.folder / self.events_name
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.splitlines()

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The objects of a JSON-lines file."""
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]


OURS = Corpus(DATA, "events.jsonl")


def real() -> Corpus:
    """The corpus of real data; for tests that need it."""
    assert REAL is not None, "the test is skipped without"
    # Their tags hold numbers. parse_event says why they are refused.
    refused = {
        "075040fbf395db975fccf36948908474994f70c871be0d1755459851438577d1",
        "eb41e9b29e08aa73bb73ebe6daa73ce59b484cfe62b95449d0bcd551186ee61c",
        "9fa84aa80a6d69000e887809001343884e2d7e8612b9d83010e9a709b93b5ead",
    }
    return Corpus(REAL, _REAL_EVENTS, frozenset(refused))


def real_addresses() -> list[str]:
    """Relay addresses as people wrote them."""
    lines = (real().folder / "relays.txt").read_text("utf-8").split("\n")[1:]
    texts = [line.partition("\t")[2] for line in lines if line]
    return [re.sub(r"\\[tnr\\]", lambda escape: escape[0].encode().decode("unicode_escape"), text) for text in texts]


@pytest.fixture(params=[pytest.param("ours"), pytest.param("real", marks=needs_real)])
def corpus(request: pytest.FixtureRequest) -> Corpus:
    """Each corpus in turn; modules that want it import it."""
    return OURS if request.param == "ours" else real()
