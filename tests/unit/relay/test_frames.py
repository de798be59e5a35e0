import itertools
import random
import time
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
import websocket

from pipeline.relay.errors import LossReason
from pipeline.relay.frames import (
    MAX_BATCH_MESSAGES,
    MAX_FRAGMENTS,
    MAX_SKIPPED_BYTES,
    SKIPPED_END_BYTES,
    FrameReader,
    Received,
    SkippedMessage,
)
from tests.support.seeds import told_seed

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0) -> bytes:
    """A server's frame, by the book."""
    first = bytes([fin << 7 | reserved << 4 | opcode])
    if len(payload) < 126:
        return first + bytes([len(payload)]) + payload
    if len(payload) < 1 << 16:
        return first + b"\x7e" + len(payload).to_bytes(2, "big") + payload
    return first + b"\x7f" + len(payload).to_bytes(8, "big") + payload


def read_all(reader: FrameReader, pieces: Iterable[bytes]) -> list[Received]:
    messages: list[Received] = []
    for piece in pieces:
        reader.feed(piece)
        while batch := reader.take():
            messages += batch
    return messages


def end_of(reader: FrameReader) -> LossReason | None:
    return reader.ended[0] if reader.ended is not None else None


class StreamOfBytes:
    """As much of a socket as websocket-client needs to read `data` and to write into the void."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def recv(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        self._at += len(part)
        return part

    def send(self, data: bytes) -> int:
        return len(data)

    def gettimeout(self) -> None:
        return None

    def close(self) -> None:
        pass


def read_with_websocket_client(data: bytes) -> tuple[list[bytes], bool]:
    """The messages that the library finds in `data`, and whether it objected to something."""
    connection = websocket.WebSocket(skip_utf8_validation=True)
    connection.sock = StreamOfBytes(data)
    messages: list[bytes] = []
    try:
        while True:
            opcode, message = connection.recv_data()
            if opcode == CLOSE:
                return messages, False
            if opcode in (TEXT, BINARY):
                messages.append(message)
    except websocket.WebSocketConnectionClosedException:
        return messages, False
    except websocket.WebSocketProtocolException:
        return messages, True


def random_stream(random_source: random.Random) -> bytes:
    """Valid frames of all kinds, with lengths around every boundary of the format."""
    lengths = [0, 1, 2, 7, 124, 125, 126, 127, 128, 700, 65_535, 65_536, 70_000]
    stream = b""
    for _ in range(random_source.randrange(1, 12)):
        opcode = random_source.choice([TEXT, TEXT, TEXT, BINARY])
        fragments = random_source.choice([1, 1, 2, 5])
        for index in range(fragments):
            if random_source.random() < 0.3:
                stream += frame(
                    random_source.choice([PING, PONG]), random_source.randbytes(random_source.choice([0, 3, 125]))
                )
            payload = random_source.randbytes(random_source.choice(lengths[: 11 if fragments > 1 else 13]))
            stream += frame(CONTINUATION if index else opcode, payload, fin=index == fragments - 1)
    if random_source.random() < 0.3:
        stream += frame(CLOSE, b"\x03\xe8bye") + frame(TEXT, b"never read")
    return stream


def cut(data: bytes, random_source: random.Random) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = random_source.choice([1, 2, 3, 10, 1000, 65_536])
        yield data[at : at + size]
        at += size


@pytest.fixture
def random_source() -> random.Random:
    return random.Random(told_seed())


def test_agrees_with_websocket_client_on_valid_streams(random_source: random.Random) -> None:
    for _ in range(60):
        stream = random_stream(random_source)
        reader = FrameReader()
        messages, objected = read_with_websocket_client(stream)
        assert not objected
        assert read_all(reader, cut(stream, random_source)) == messages


def test_takes_nothing_from_broken_streams_that_websocket_client_would_not(random_source: random.Random) -> None:
    """Where it is stricter than the library it stops earlier; it never goes on where the library objects."""
    for _ in range(300):
        stream = bytearray(random_stream(random_source))
        if len(stream) > 2000:
            continue
        stream[random_source.randrange(len(stream))] ^= 1 << random_source.randrange(8)
        reader = FrameReader()
        messages = read_all(reader, cut(bytes(stream), random_source))
        expected, objected = read_with_websocket_client(bytes(stream))
        assert messages == expected[: len(messages)]
        assert reader.ended is not None or (messages == expected and not objected)


def test_frames_may_be_split_anywhere() -> None:
    stream = (
        frame(TEXT, b"first")
        + frame(PING, b"!")
        + frame(TEXT, b"x" * 130)
        + frame(TEXT, b"be", fin=False)
        + frame(PING)
        + frame(CONTINUATION, b"gin", fin=False)
        + frame(CONTINUATION, b"")
        + frame(BINARY, b"read as text")
        + frame(TEXT, b"y" * 66_000)
        + frame(TEXT, b"last")
    )
    expected = [b"first", b"x" * 130, b"begin", b"read as text", b"y" * 66_000, b"last"]
    boundaries = itertools.chain(range(200), range(len(stream) - 100, len(stream)))
    for boundary in boundaries:
        reader = FrameReader()
        assert read_all(reader, [stream[:boundary], stream[boundary:]]) == expected
    assert read_all(FrameReader(), (stream[at : at + 1] for at in range(len(stream)))) == expected


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(frame(TEXT, b"x", reserved=4), id="compressed without agreement"),
        pytest.param(frame(TEXT, b"x", reserved=1), id="reserved bit"),
        pytest.param(frame(3, b"x"), id="unknown data opcode"),
        pytest.param(frame(11), id="unknown control opcode"),
        pytest.param(b"\x81\x81\x00\x00\x00\x00x", id="masked"),
        pytest.param(frame(PING, fin=False), id="fragmented ping"),
        pytest.param(frame(CLOSE, fin=False), id="fragmented close"),
        pytest.param(frame(PING, b"x" * 126), id="long ping"),
        pytest.param(frame(PONG, b"x" * 126), id="long pong"),
        pytest.param(frame(CLOSE, b"\x03\xe8" + b"x" * 124), id="long close"),
        pytest.param(frame(CLOSE, b"\x03"), id="half a close code"),
        pytest.param(frame(CLOSE, b"\x03\xed"), id="close code for local use only"),
        pytest.param(frame(CLOSE, b"\x00\x00"), id="close code zero"),
        pytest.param(frame(CONTINUATION, b"x"), id="continuation of nothing"),
        pytest.param(frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), id="text inside a text"),
        pytest.param(frame(TEXT, b"x", fin=False) + frame(BINARY, b"y"), id="binary inside a text"),
        pytest.param(frame(BINARY, b"x", fin=False) + frame(TEXT, b"y"), id="text inside a binary"),
    ],
)
def test_violation_ends_the_stream_after_what_came_before(broken: bytes) -> None:
    reader = FrameReader()
    assert read_all(reader, [frame(TEXT, b"good") + broken + frame(TEXT, b"bad")]) == [b"good"]
    assert end_of(reader) is LossReason.PROTOCOL
    assert read_all(reader, [frame(TEXT, b"later")]) == []


@pytest.mark.parametrize(
    ("payload", "detail"),
    [
        (b"", "no reason given"),
        (b"\x03\xe9", "1001 "),
        (b"\x0f\xa0going \xff", "4000 going \ufffd"),
    ],
)
def test_close_frame_ends_the_stream_with_its_code_and_text(payload: bytes, detail: str) -> None:
    reader = FrameReader()
    assert read_all(reader, [frame(TEXT, b"good") + frame(CLOSE, payload) + frame(TEXT, b"bad")]) == [b"good"]
    assert reader.ended == (LossReason.CLOSED, detail)


@pytest.mark.parametrize("announced", [10 << 30, 1 << 63, (1 << 64) - 1, MAX_SKIPPED_BYTES + 1])
def test_frame_far_beyond_the_limit_is_refused_by_its_header(announced: int) -> None:
    reader = FrameReader(max_message_bytes=100)
    assert read_all(reader, [frame(TEXT, b"x" * 100) + b"\x81\x7f" + announced.to_bytes(8, "big")]) == [b"x" * 100]
    assert end_of(reader) is LossReason.TOO_LARGE


def test_fragments_far_beyond_the_limit_count_as_a_whole() -> None:
    reader = FrameReader(max_message_bytes=100)
    first = frame(TEXT, b"x" * 60, fin=False)
    rest = b"\x80\x7f" + (MAX_SKIPPED_BYTES - 59).to_bytes(8, "big")
    assert read_all(reader, [first + rest]) == []
    assert end_of(reader) is LossReason.TOO_LARGE


LONG = b"<" + b"x" * 2000 + b">"
LONG_SKIPPED = SkippedMessage(LONG[:SKIPPED_END_BYTES], LONG[-SKIPPED_END_BYTES:], len(LONG))


@pytest.mark.parametrize(
    ("stream", "skipped"),
    [
        pytest.param(frame(TEXT, b"x" * 101), SkippedMessage(b"x" * 101, b"x" * 101, 101), id="a byte too long"),
        pytest.param(frame(TEXT, LONG), LONG_SKIPPED, id="one frame"),
        pytest.param(frame(BINARY, LONG), LONG_SKIPPED, id="binary"),
        pytest.param(
            frame(TEXT, LONG[:60], fin=False) + frame(PING, b"!") + frame(CONTINUATION, LONG[60:]),
            LONG_SKIPPED,
            id="the second fragment is too long",
        ),
        pytest.param(
            frame(TEXT, LONG[:1000], fin=False) + frame(CONTINUATION, LONG[1000:], fin=False) + frame(CONTINUATION),
            LONG_SKIPPED,
            id="the first fragment is too long",
        ),
    ],
)
def test_message_beyond_the_limit_is_skipped_among_the_others(
    stream: bytes, skipped: SkippedMessage, random_source: random.Random
) -> None:
    whole = frame(TEXT, b"before") + stream + frame(TEXT, b"behind") + stream + frame(TEXT, b"last")
    for pieces in ([whole], cut(whole, random_source), (whole[at : at + 1] for at in range(len(whole)))):
        reader = FrameReader(max_message_bytes=100)
        assert read_all(reader, pieces) == [b"before", skipped, b"behind", skipped, b"last"]
        assert end_of(reader) is None


def test_skipped_message_is_not_held() -> None:
    reader = FrameReader(max_message_bytes=1000)
    size = 48 << 20
    tracemalloc.start()
    pieces = itertools.chain([b"\x81\x7f" + size.to_bytes(8, "big")], itertools.repeat(b"x" * 65_536, size >> 16))
    (skipped,) = read_all(reader, pieces)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(skipped, SkippedMessage)
    assert skipped.size == size
    assert peak < 1 << 20


def test_message_of_the_very_limit_passes_with_a_ping_inside() -> None:
    reader = FrameReader(max_message_bytes=100)
    stream = frame(TEXT, b"x" * 100, fin=False) + frame(PING, b"y" * 100) + frame(CONTINUATION)
    assert read_all(reader, [stream]) == [b"x" * 100]
    assert reader.ping == b"y" * 100


def test_endless_empty_fragments_are_cut() -> None:
    reader = FrameReader()
    stream = frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * (MAX_FRAGMENTS - 1)
    assert read_all(reader, [stream]) == []
    assert end_of(reader) is None
    read_all(reader, [frame(CONTINUATION, fin=False)])
    assert end_of(reader) is LossReason.TOO_LARGE


def test_only_the_newest_ping_is_kept() -> None:
    reader = FrameReader()
    reader.feed(b"".join(frame(PING, b"%d" % number) for number in range(1000)))
    assert reader.take() == []
    assert reader.ping == b"999"


def test_batch_is_bounded_and_the_rest_comes_next() -> None:
    reader = FrameReader()
    reader.feed(frame(TEXT) * (2 * MAX_BATCH_MESSAGES) + frame(TEXT, b"x" * 70_000))
    assert [len(reader.take()) for _ in range(4)] == [MAX_BATCH_MESSAGES, MAX_BATCH_MESSAGES, 1, 0]


def test_work_is_linear_in_the_bytes() -> None:
    """Copying what is there for each piece would move 100 GB here."""
    size = 4 << 20
    pieces = [
        *(b"\x81\x7f" + size.to_bytes(8, "big"), *itertools.repeat(b"x" * 64, size // 64)),
        *(frame(CONTINUATION if index else TEXT, b"y" * 4096, fin=index == 1023) for index in range(1024)),
    ]
    started = time.process_time()
    messages = read_all(FrameReader(), pieces)
    assert [len(message) for message in messages if isinstance(message, bytes)] == [size, size]
    assert time.process_time() - started < 5.0


def test_reader_is_midway_from_the_first_byte_of_a_message_to_its_last() -> None:
    reader, message = FrameReader(), frame(TEXT, b"x" * 300)
    found = []
    for byte in message:
        reader.feed(bytes([byte]))
        found.append((len(reader.take()), reader.is_midway))
    assert found == [(0, True)] * (len(message) - 1) + [(1, False)]
    reader.feed(frame(TEXT, b"first", fin=False))
    assert (reader.take(), reader.is_midway) == ([], True)
