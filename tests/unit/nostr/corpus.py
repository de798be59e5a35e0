"""The corpus of real and constructed events, when it lies beside the checkout; without it its tests are skipped."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[4] / "shared" / "corpus"

needs_corpus = pytest.mark.skipif(not ROOT.exists(), reason="the corpus is not beside this checkout")

# The three whose tags hold numbers, and the one with an empty tag. parse_event says why they are refused.
REFUSED_REAL_EVENTS = {
    "075040fbf395db975fccf36948908474994f70c871be0d1755459851438577d1",
    "eb41e9b29e08aa73bb73ebe6daa73ce59b484cfe62b95449d0bcd551186ee61c",
    "9fa84aa80a6d69000e887809001343884e2d7e8612b9d83010e9a709b93b5ead",
    "11f22b4683f0aaf7060778cfafd2d62ae34648e43029bc75ee9e1bcd19366849",
}


def rows(name: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file."""
    for line in (ROOT / name).read_text().splitlines():
        yield json.loads(line)


def event_lines() -> list[bytes]:
    """All real events, each the JSON text of one."""
    with gzip.open(ROOT / "events.jsonl.gz") as file:
        return [line.strip() for line in file]
