"""The documents name the attributes that are sent, and their filters select what they say."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.process.trace_context import deliver, traceparent
from pipeline.rules.relevance import MAX_MENTIONS, Rule
from pipeline.sinks.attributes import LATE_S, LATER, MAX_LISTED_MENTIONS, SCHEMA, attributes
from pipeline.sinks.base import Message
from pipeline.store.retractions import Retracted

ROOT = Path(__file__).resolve().parents[3]
MAX_FILTER_BYTES = 256
NOW = 1_700_000_000
VALUES = {
    "late": {*map(str, LATE_S), LATER},
    "retracted": {each.value for each in Retracted},
    "schema": {SCHEMA},
    "mentions_cut": {"1"},
    "replay": {"true"},
} | {f"rule_{rule.value}": {"1"} for rule in Rule}
"""Every value of those attributes that have few."""


def sent(kind: int = 1, created_at: int = NOW, **known: object) -> dict[str, str]:
    payload = b'{"pubkey":"%s","created_at":%d,"kind":%d}' % (b"02" * 32, created_at, kind)
    return attributes(replace(Message(b"\1" * 32, payload, NOW * 1000), **known))  # type: ignore[arg-type]


EVERYTHING = sent(
    relay="wss://relay.example.com",
    rules=tuple(Rule),
    mentions=("ab" * 32,) * MAX_MENTIONS,
    retracted="deleted",
    is_replay=True,
    traceparent=traceparent(b"\1" * 32, deliver("pubsub")),
)


def table(document: str, first_cell: str) -> list[list[str]]:
    """The cells of each row of the table whose header begins with `first_cell`."""
    text = (ROOT / document).read_text()
    lines = text[text.index(f"| {first_cell} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


ATTRIBUTES = {cells[0].strip("`"): cells[1] for cells in table("README.md", "attribute")}
CONSUMERS = "pipeline/docs/consumers"
SAMPLES = [path.relative_to(ROOT / CONSUMERS).as_posix() for path in (ROOT / CONSUMERS).rglob("*.py")]
OF_SAMPLES = {cells[2].strip("`") for cells in table(f"{CONSUMERS}/README.md", "sample")}
FILTERS = {cells[0].strip("`"): cells[1] for cells in table(f"{CONSUMERS}/README.md", "filter")}
FILTERS |= dict.fromkeys(OF_SAMPLES - set(FILTERS), "")


def test_readme_has_every_attribute_and_no_other() -> None:
    assert set(ATTRIBUTES) == set(EVERYTHING)


def test_readme_has_every_value() -> None:
    for name, text in ATTRIBUTES.items():
        for value in VALUES.get(name, ()):
            assert f"`{value}`" in text, name
    assert f"at most {MAX_LISTED_MENTIONS}" in ATTRIBUTES["mentions"]


def selects(text: str, message: dict[str, str]) -> bool:
    """Whether a filter selects a message, by the syntax of Pub/Sub as far as the documents use it."""
    assert not (" AND " in text and " OR " in re.sub(r"\([^()]* OR [^()]*\)", "", text)), "mixed without parentheses"
    expression = re.sub(r'hasPrefix\(attributes\.(\w+), ("[^"]*")\)', r'message.get("\1", "").startswith(\2)', text)
    expression = re.sub(r'attributes\.(\w+) = ("[^"]*")', r'(message.get("\1") == \2)', expression)
    expression = re.sub(r"attributes:(\w+)", r'("\1" in message)', expression)
    for word in ("AND", "OR", "NOT"):
        expression = re.sub(rf"\b{word}\b", word.lower(), expression)
    assert "attributes" not in expression, text
    return bool(eval(expression, {"__builtins__": {}}, {"message": message}))


def test_there_are_filters_to_look_at() -> None:
    assert len(FILTERS) > 5


@pytest.mark.parametrize("sample", SAMPLES)
def test_sample_is_told_with_a_filter_that_it_names(sample: str) -> None:
    (row,) = (cells for cells in table(f"{CONSUMERS}/README.md", "sample") if cells[0] == f"[{sample}]({sample})")
    assert row[2] in (ROOT / CONSUMERS / sample).read_text()


@pytest.mark.parametrize("text", FILTERS)
def test_filter_compares_attributes_that_are_sent(text: str) -> None:
    assert len(text.encode()) <= MAX_FILTER_BYTES
    names = re.findall(r"attributes[.:](\w+)", text)
    assert names
    assert set(names) <= set(EVERYTHING)
    for name, value in re.findall(r'attributes\.(\w+) = "([^"]*)"', text):
        assert value in VALUES.get(name, {value}), name
        assert name in VALUES or value.isdigit(), name


MESSAGES = (
    EVERYTHING,
    sent(rules=("mention",)),
    sent(rules=("user",)),
    sent(rules=("followee",), created_at=NOW - LATE_S[-1] - 1),
    sent(kind=3, rules=("global",)),
    sent(kind=3, rules=("global", "mention")),
    sent(kind=5, rules=("user",)),
    sent(kind=1984, rules=("mention",)),
)


@pytest.mark.parametrize("text", FILTERS)
def test_filter_selects_some_messages_and_not_others(text: str) -> None:
    assert {selects(text, message) for message in MESSAGES} == {True, False}


def test_filter_for_notifications_selects_mentions() -> None:
    (text,) = (text for text, meaning in FILTERS.items() if meaning.endswith("for notifications"))
    assert [selects(text, message) for message in MESSAGES] == ["rule_mention" in message for message in MESSAGES]
