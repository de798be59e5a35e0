"""What a browser may ask the page for, and which browser may."""

import pytest

from pipeline.server.page.request import COLUMNS, PageRequest, is_local, parse_request


def test_nothing_asked_for_is_the_most_useful_first() -> None:
    assert parse_request("/") == PageRequest("", "novel", True, "", None)


def test_search_order_and_event_are_read() -> None:
    event = "AB" * 32
    asked = parse_request(f"/?q=nos+lol&sort=-behind&event={event}&else=1")
    assert asked == PageRequest("nos lol", "behind", True, event, bytes.fromhex(event))


@pytest.mark.parametrize(
    "target", ["/?sort=__class__", "/?sort=--novel", "/?sort=", "/?q=%ff&sort=%00", "/?" + "a=1&" * 99]
)
def test_what_makes_no_sense_is_left_out(target: str) -> None:
    assert parse_request(target).sort in COLUMNS


def test_what_is_no_event_id_is_kept_as_text() -> None:
    asked = parse_request("/?event=%3Cscript%3E")
    assert (asked.event, asked.event_id) == ("<script>", None)


def test_long_texts_are_cut() -> None:
    assert len(parse_request("/?q=" + "x" * 5000).search) == 1000


def test_a_column_sorts_the_other_way_round_when_it_is_asked_for_again() -> None:
    asked = parse_request("/?q=a%26b&sort=-gaps")
    assert asked.sorted_by("gaps") == "?q=a%26b&sort=gaps"
    assert asked.sorted_by("behind") == "?q=a%26b&sort=-behind"
    assert asked.sorted_by("address") == "?q=a%26b&sort=address"


def test_every_word_must_be_found_somewhere() -> None:
    asked = parse_request("/?q=NOS+refused")
    assert asked.finds("wss://nos.lol", "Refused: no")
    assert not asked.finds("wss://nos.lol", "timeout")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8008", "127.0.0.1:8008", "127.9.9.9", "[::1]:8008", "[::1]"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_browser_here_that_asks_for_here_is_local(peer: str, host: str) -> None:
    assert is_local(peer, host)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("127.0.0.1", "rebound.example"), ("127.0.0.1", "localhost.example"), ("127.0.0.1", ""),
        ("192.168.1.9", "localhost"), ("8.8.8.8", "127.0.0.1"), ("", "localhost"),
        ("127.0.0.1", "192.168.1.1"),
    ],
)  # fmt: skip
def test_nobody_else_is_local(peer: str, host: str) -> None:
    """By a name that a stranger controls, a page of theirs could have the browser read ours."""
    assert not is_local(peer, host)
