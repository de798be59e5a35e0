"""JSON text: agreement with the standard library, the second reader, and cheap refusal of what is hostile."""

import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.nostr import json_text
from pipeline.nostr.json_text import NotJson, decode, encode
from tests.unit.nostr.strategies import json_values, property_test, text_with_surrogates

SURROGATE = rb'"\ud800"'  # what orjson refuses, so that the second reader reads
MIB = 1 << 20


def outcome(raw: bytes) -> Any:
    try:
        return decode(raw)
    except NotJson:
        return NotJson


@property_test
@given(json_values)
def test_reads_and_writes_as_the_standard_library_does(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    assert decode(text) == value
    assert decode(encode(value)) == value
    assert decode(json.dumps(value, indent=2).encode()) == value


@property_test
@given(text_with_surrogates, json_values)
def test_both_readers_agree(text: str, value: Any) -> None:
    """A surrogate beside a value makes the second reader read it."""
    assert decode(encode([text, value])) == [text, value]
    raw = json.dumps(["\udc00", text, value]).encode()
    assert decode(raw) == json.loads(raw)


@property_test
@given(st.binary() | st.text('[]{}",:\\ud80\t\n -.eE+1nulltrue').map(str.encode))
def test_any_bytes_are_json_or_not_and_both_readers_say_the_same(raw: bytes) -> None:
    alone = outcome(raw)
    beside = outcome(b"[" + SURROGATE + b"," + raw + b"]")
    if alone is not NotJson:
        assert beside == ["\ud800", alone]
    elif beside is not NotJson:
        assert len(beside) > 2  # such as `1,2`, which is JSON only between brackets


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"\xef\xbb\xbf[]",
        b"[1,]",
        b"[,1]",
        b"[01]",
        b"[1.]",
        b"[.5]",
        b"[+1]",
        b"[NaN]",
        b"[Infinity]",
        b"[-Infinity]",
        b"[1e999]",
        b"[\xff]",
        b'["\xff"]',
        b'["\xed\xa0\x80"]',
        b'["\xc0\x80"]',
        b'["a\nb"]',
        b'["a\tb"]',
        b'["\x00"]',
        b"['a']",
        b'{"a":1,}',
        b"{a:1}",
        b"[] []",
        b"[]x",
        b"nul",
        '["ab"]'.encode("utf-16"),
        '["ab"]'.encode("utf-32-le"),
    ],
)
def test_what_is_no_json_is_refused_by_both_readers(raw: bytes) -> None:
    with pytest.raises(NotJson):
        decode(raw)
    with pytest.raises(NotJson):
        decode(b"[" + SURROGATE + b"," + raw + b"]")


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_are_refused_by_the_second_reader_too(codec: str) -> None:
    with pytest.raises(NotJson):
        decode(SURROGATE.decode().encode(codec))


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, 2**64 + 1, -(2**63), -(2**63) - 1, 10**30, 0, -1])
def test_integers_outside_of_64_bits_are_floats_for_both_readers(number: int) -> None:
    for raw in (b"[%d]" % number, b"[%d,%s]" % (number, SURROGATE)):
        read = decode(raw)[0]
        assert read == pytest.approx(number, rel=1e-12)
        assert type(read) is (int if -(2**63) <= number < 2**64 else float)


@pytest.mark.parametrize("pair", [("[", "]"), ('{"a":', "}")])
def test_nesting_is_bounded(pair: tuple[str, str]) -> None:
    def nested(depth: int, inner: bytes) -> bytes:
        return (pair[0] * depth).encode() + inner + (pair[1] * depth).encode()

    assert outcome(nested(900, b"1")) is not NotJson
    assert outcome(nested(1100, b"1")) is NotJson
    assert outcome(nested(64, SURROGATE)) is not NotJson
    assert outcome(nested(65, SURROGATE)) is NotJson
    assert outcome(nested(100_000, SURROGATE)) is NotJson


def test_closed_levels_do_not_count() -> None:
    inner = b'{"a":[{"b":[]},{}],"c":{}}'
    for depth, expected in ((60, True), (61, False)):
        raw = b"[" * depth + b",".join([inner] * 100) + b"," + SURROGATE + b"]" * depth
        assert (outcome(raw) is not NotJson) is expected
    for closed in (b"[],", b"{},"):
        assert outcome(b"[" + closed * 100 + b"[" * 64 + SURROGATE + b"]" * 65) is NotJson


def test_brackets_in_strings_are_no_nesting() -> None:
    value = ["\ud800", "[" * 500, '"' + "{" * 500, "\\" * 3 + "["]
    assert decode(encode(value)) == value


def test_the_deepest_text_is_safe_on_a_small_thread_stack() -> None:
    """A relay's thread may have little stack; 256 KiB must do."""
    results: list[Any] = []

    def run() -> None:
        results.extend(outcome(raw) for raw in (b"[" * 1024 + b"]" * 1024, b"[" * 64 + SURROGATE + b"]" * 64))
        results.append(outcome(b"[" * 100_000 + SURROGATE + b"]" * 100_000))

    previous = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(previous)
    thread.join()
    assert [result is NotJson for result in results] == [False, False, True]


HOSTILE = {
    "open brackets": b"[" * MIB,
    "brackets": b"[" * (MIB // 2) + b"]" * (MIB // 2),
    "braces": b'{"a":' * (MIB // 5),
    "digits": b"[" + b"9" * MIB + b"]",
    "negative digits": b"[-" + b"9" * MIB + b"]",
    "fraction": b"[0." + b"9" * MIB + b"]",
    "exponent": b"[1e" + b"9" * MIB + b"]",
    "equal keys": b"{" + b'"a":1,' * (MIB // 6) + b'"a":2}',
    "blanks": b" " * MIB,
    "quotes": b'"' * MIB,
    "escaped quotes without an end": b'"' + rb"\"" * (MIB // 2),
    "backslashes": b'"' + b"\\" * (MIB | 1),
    "surrogates": b'"' + rb"\ud800" * (MIB // 6) + b'"',
    "empty arrays": b"[" + b"[]," * (MIB // 3) + b"1]",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_costs_linear_time(name: str) -> None:
    """A quadratic step over a MiB would take minutes; both readers need well under a second."""
    started = time.process_time()
    outcome(HOSTILE[name])
    outcome(b"[" + SURROGATE + b"," + HOSTILE[name] + b"]")
    assert time.process_time() - started < 5


def test_nan_is_never_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode(["\ud800", float("nan")])


def test_the_second_reader_is_used_for_surrogates_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(raw: bytes) -> Any:
        raise AssertionError(raw)

    monkeypatch.setattr(json_text, "_decode_with_surrogates", fail)
    assert outcome(b"[1") is NotJson
    assert outcome(rb'["\u00e9"') is NotJson
    with pytest.raises(AssertionError):
        decode(SURROGATE)
