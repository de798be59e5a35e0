"""What strangers write is shown, never obeyed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.printable import printable

HOSTILE = {
    "clears the screen": ("\x1b[2Jgone", "\\u001b[2Jgone"),
    "a C1 code": ("\x9b31m", "\\u009b31m"),
    "writes backwards": ("safe\u202eexe.txt", "safe\\u202eexe.txt"),
    "isolates": ("\u2066x\u2069", "\\u2066x\\u2069"),
    "a new line": ("one\ntwo\r", "one\\u000atwo\\u000d"),
    "half a pair": ("\ud800", "\\ud800"),
    "beyond the first plane": ("\U000e0001", "\\udb40\\udc01"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_terminal_obeys_is_written_out(case: str) -> None:
    given_, shown = HOSTILE[case]
    assert printable(given_) == shown


def test_letters_of_every_language_stay() -> None:
    text = "Straße, 日本語, עברית, 😀 é"
    assert printable(text) == text


@given(st.text())
def test_the_result_is_printable_and_json_stays_json(text: str) -> None:
    assert printable(text).isprintable()
    encoded = json.dumps(text, ensure_ascii=False)
    assert json.loads(printable(encoded)) == text
