"""Frames that hold too much are told before they are parsed, and those whose event may be saved are not among them."""

import json

import pytest

from pipeline.nostr.frame_bounds import Excess, FrameBounds

BOUNDS = FrameBounds(event_bytes=2_000, event_tags=20)


def frame(content: str = "", tags: list[list[str]] | None = None) -> bytes:
    event = {"id": "00" * 32, "created_at": 1, "content": content, "tags": tags or []}
    return json.dumps(["EVENT", "live", event]).encode()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(frame(), id="small"),
        pytest.param(frame("ä" * 1_900), id="escapes make it six times as long"),
        pytest.param(frame(tags=[["p", "x" * 64]] * 20), id="as many tags as allowed"),
        pytest.param(frame("[" * 999 + ',"' * 400), id="brackets and commas in a text"),
        pytest.param(frame('\\"[' * 500 + "\\"), id="escaped quotes before brackets"),
        pytest.param(b'["NOTICE","' + b"[," * 2_000, id="a text without end"),
    ],
)
def test_frame_whose_event_may_be_saved_is_within_bounds(raw: bytes) -> None:
    assert BOUNDS.excess(raw) is None


@pytest.mark.parametrize(
    ("raw", "excess"),
    [
        pytest.param(frame("x" * 20_000), Excess.BYTES, id="long"),
        pytest.param(frame(tags=[["", ""]] * 60), Excess.TAGS, id="tiny tags"),
        pytest.param(frame(tags=[[]] * 60), Excess.TAGS, id="empty tags"),
        pytest.param(frame("[" * 50, tags=[["p"]] * 60), Excess.TAGS, id="tags and a text"),
        pytest.param(frame(tags=[["p", *[""] * 400]]), Excess.TAGS, id="one tag of many values"),
        pytest.param(b'["NOTICE",' + b"[]," * 99, Excess.TAGS, id="no event"),
    ],
)
def test_frame_that_holds_too_much_is_told(raw: bytes, excess: Excess) -> None:
    assert BOUNDS.excess(raw) is excess


def test_texts_over_chunks_are_told_from_what_is_outside() -> None:
    bounds = FrameBounds(1 << 20, 1_000)
    text = '["[,' * 200_000
    assert bounds.excess(frame(text)) is None
    assert bounds.excess(frame(text, tags=[["p"]] * 1_100)) is Excess.TAGS
    assert bounds.excess(frame(text, tags=[["p"]] * 900)) is None
