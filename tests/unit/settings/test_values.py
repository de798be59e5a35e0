"""Parsers of single values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.settings.values import (
    HostPort,
    InvalidValue,
    boolean,
    duration_ms,
    format_duration,
    host_port,
    integer,
    project_id,
    text_list,
    topic_id,
)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("16m", 960_000),
        ("72h", 259_200_000),
        ("30d", 2_592_000_000),
        ("90s", 90_000),
        ("250ms", 250),
        ("0s", 0),
        ("0", 0),
        (" 1H ", 3_600_000),
        ("007s", 7_000),
        ("00000000000000000016m", 960_000),
        ("1000000000001ms", 1_000_000_000_001),
        ("36500d", 36_500 * 86_400_000),
    ],
)
def test_durations(text: str, milliseconds: int) -> None:
    assert duration_ms(text) == milliseconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "16",
        "m",
        "1.5h",
        "-1s",
        "+1s",
        "1 h",
        "1w",
        "1h30m",
        "1_000s",
        "36501d",
        "9" * 5000 + "s",
        "\uff11\uff16m",
        "1e3s",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidValue):
        duration_ms(text)


@given(st.integers(0, 36_500 * 86_400_000))
def test_a_written_duration_reads_as_it_was(milliseconds: int) -> None:
    assert duration_ms(format_duration(milliseconds)) == milliseconds


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0s"), (250, "250ms"), (1_000, "1s"), (90_000, "90s"), (960_000, "16m"), (86_400_000, "1d")],
)
def test_durations_are_written_as_short_as_can_be(milliseconds: int, text: str) -> None:
    assert format_duration(milliseconds) == text


@pytest.mark.parametrize(("text", "value"), [("true", True), ("TRUE", True), (" false ", False), ("False", False)])
def test_booleans(text: str, value: bool) -> None:
    assert boolean(text) is value


@pytest.mark.parametrize("text", ["", "1", "0", "yes", "on", "truE!", "t"])
def test_what_is_no_boolean(text: str) -> None:
    with pytest.raises(InvalidValue, match="true or false"):
        boolean(text)


@pytest.mark.parametrize(("text", "value"), [("1", 1), (" 64 ", 64), ("007", 7)])
def test_integers(text: str, value: int) -> None:
    assert integer(text, least=1, most=64) == value


@pytest.mark.parametrize("text", ["", "0", "65", "-1", "+1", "1.0", "1e1", "1_0", "٣", "ten", "9" * 5000])
def test_what_is_no_integer_within_the_bounds(text: str) -> None:
    with pytest.raises(InvalidValue, match="from 1 to 64"):
        integer(text, least=1, most=64)


@pytest.mark.parametrize(
    ("text", "items"), [("", ()), (" , ,", ()), ("a", ("a",)), (" a , b,,c ", ("a", "b", "c")), ("a b", ("a b",))]
)
def test_lists(text: str, items: tuple[str, ...]) -> None:
    assert text_list(text) == items


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (":8008", "", 8008),
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("example.com:65535", "example.com", 65_535),
        ("localhost:0", "localhost", 0),
        ("[::1]:8008", "::1", 8008),
        (" [2001:db8::1]:1 ", "2001:db8::1", 1),
    ],
)
def test_endpoints_in_the_form_of_go(text: str, host: str, port: int) -> None:
    endpoint = host_port(text)
    assert endpoint == HostPort(host, port)
    assert host_port(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8008",
        "host",
        "host:",
        ":65536",
        ":-1",
        "::1:80",
        "[::1]",
        "[]:80",
        "[x]:80",
        "[1.2.3.4]:80",
        "a b:80",
        "ws://h:80",
        "h:8\uff10",
    ],
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(InvalidValue):
        host_port(text)


@pytest.mark.parametrize("text", ["nostr-events", "abc", "A1._~+%-", "x" * 255, " padded "])
def test_topic_ids(text: str) -> None:
    assert topic_id(text) == text.strip()


@pytest.mark.parametrize(
    "text", ["", "ab", "a b/", "1abc", "-abc", "goog-events", "Google", "x" * 256, "projects/p/topics/t", "ünïcode"]
)
def test_no_topic_ids(text: str) -> None:
    with pytest.raises(InvalidValue):
        topic_id(text)


@pytest.mark.parametrize("text", ["test", "p", "my-project-1", "example.com:my-project", "123456", " padded "])
def test_project_ids_also_of_emulators(text: str) -> None:
    assert project_id(text) == text.strip()


@pytest.mark.parametrize("text", ["", "my project", "a/b", "projects/p", "-p", "x" * 256, "p\n"[:1] + "\nq"])
def test_no_project_ids(text: str) -> None:
    with pytest.raises(InvalidValue):
        project_id(text)
