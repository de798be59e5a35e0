"""Compressed messages, held against the encoders of others."""

import random
import zlib

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from pipeline.relay.deflate import UnusableAgreement, inflate, inflate_head, is_agreed
from pipeline.relay.frames import SKIPPED_END_BYTES, FrameReader, SkippedMessage
from tests.support.seeds import seeds
from tests.unit.relay.test_frames import BINARY, CONTINUATION, PING, TEXT, cut, frame, read_all

MOST = 4096


def deflated(data: bytes, level: int = 6, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    encoder = zlib.compressobj(level, zlib.DEFLATED, -15)
    compressed = encoder.compress(data) + encoder.flush(flush)
    return compressed.removesuffix(b"\x00\x00\xff\xff") if flush == zlib.Z_SYNC_FLUSH else compressed + b"\x00"


def by_websockets(data: bytes, bits: int) -> bytes:
    """The same by the library's extension, which is another reading of the RFC."""
    encoder = PerMessageDeflate(True, True, bits, bits)
    return bytes(encoder.encode(Frame(Opcode.TEXT, data)).data)


@pytest.mark.parametrize("seed", seeds(2))
def test_agrees_with_the_encoder_of_websockets(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        data = bytes(rng.choice(b'[],"abcdef0123456789') for _ in range(rng.choice([0, 1, 100, 700, MOST])))
        assert inflate(by_websockets(data, rng.randrange(9, 16)), MOST) == data


@pytest.mark.parametrize("size", [0, 1, MOST])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_every_kind_of_block_is_inflated(size: int, level: int) -> None:
    data = random.Random(size).randbytes(size)
    assert inflate(deflated(data, level), MOST) == data
    assert inflate(deflated(data, level, zlib.Z_FINISH), MOST) == data


def test_blocks_behind_a_last_one_share_its_window() -> None:
    """RFC 7692 section 7.2.3.4 lets each part of a message end in a block that says it is the last."""
    text = b"the same words again " * 20
    first = zlib.compressobj(9, zlib.DEFLATED, -15)
    second = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=text)
    parts = first.compress(text) + first.flush() + second.compress(text) + second.flush() + b"\x00"
    assert inflate(parts, MOST) == 2 * text


def test_example_of_the_rfc() -> None:
    """RFC 7692 section 7.2.3.2, in one frame and in two."""
    reader = FrameReader(inflates=True)
    whole = bytes.fromhex("c107f248cdc9c90700")
    parts = bytes.fromhex("4103f248cd8004c9c90700")
    assert read_all(reader, [whole + parts]) == [b"Hello", b"Hello"]


@pytest.mark.parametrize("size", [MOST + 1, 50_000_000])
def test_what_inflates_to_too_much_is_not_inflated(size: int) -> None:
    bomb = deflated(b"[" * size)
    assert inflate(bomb, MOST) is None
    assert inflate_head(bomb, 10) == b"[" * 10


@pytest.mark.parametrize("broken", [b"\xff" * 10, b"\x07", b"\x01\x05\x00\x00\x00hello"])
def test_what_no_encoder_makes_is_none(broken: bytes) -> None:
    assert inflate(broken, MOST) is None
    assert inflate_head(broken, 10) == b""


def test_last_blocks_without_end_are_given_up() -> None:
    empty = zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    assert inflate(empty * 10_000 + b"\x00", MOST) is None


def compressed(data: bytes, opcode: int = TEXT, *, fin: bool = True) -> bytes:
    return frame(opcode, data, fin=fin, reserved=4)


@pytest.mark.parametrize("seed", seeds(2))
def test_compressed_and_plain_messages_may_alternate(seed: int) -> None:
    rng = random.Random(seed)
    stream, expected = b"", []
    for _ in range(30):
        text = bytes(rng.choice(b"abcdef") for _ in range(rng.choice([0, 3, 200, MOST])))
        expected.append(text)
        opcode, packed = rng.choice([TEXT, BINARY]), deflated(text)
        match rng.randrange(3):
            case 0:
                stream += frame(opcode, text)
            case 1:
                stream += compressed(packed, opcode)
            case _:
                middle = rng.randrange(len(packed) + 1)
                stream += compressed(packed[:middle], opcode, fin=False) + frame(PING)
                stream += frame(CONTINUATION, packed[middle:])
    reader = FrameReader(MOST, inflates=True)
    assert read_all(reader, cut(stream, rng)) == expected
    assert reader.ended is None


@pytest.mark.parametrize(
    "long", [b'["EVENT","P1",' + b" " * MOST, b'["EVENT","P1",' + random.Random(1).randbytes(2 * MOST)]
)
def test_message_that_is_too_long_is_skipped_but_for_its_head(long: bytes) -> None:
    """Whether it shows by the size of its frame, or while it is inflated."""
    packed = deflated(long)
    for stream in (compressed(packed), compressed(packed[:5], fin=False) + frame(CONTINUATION, packed[5:])):
        reader = FrameReader(MOST, inflates=True)
        skipped, last = read_all(reader, [stream + compressed(deflated(b"last"))])
        assert isinstance(skipped, SkippedMessage)
        assert skipped.head[:100] == long[:100]
        assert len(skipped.head) <= SKIPPED_END_BYTES
        assert (skipped.tail, skipped.size, last) == (b"", max(len(packed), MOST), b"last")


def test_what_a_few_bytes_are_inflated_to_is_bounded_in_a_batch() -> None:
    """Else what one read takes from the network, 64 KiB, may become 64 MiB at once."""
    bomb, end = b"x" * (4 << 20), frame(TEXT, b"end")
    reader = FrameReader(4 << 20, inflates=True)
    reader.feed(compressed(deflated(bomb)) * 10 + end)
    batches = []
    while batch := reader.take():
        batches.append(batch)
        assert reader.is_full(batch) == (batch[-1] != b"end")
    assert [len(batch) for batch in batches] == [2, 2, 2, 2, 2, 1]
    assert b"".join(each for batch in batches for each in batch if isinstance(each, bytes)) == bomb * 10 + b"end"


def test_message_that_cannot_be_inflated_costs_itself_alone() -> None:
    reader = FrameReader(inflates=True)
    stream = compressed(b"\xff" * 10) + compressed(deflated(b"last"))
    assert read_all(reader, [stream]) == [SkippedMessage(b"", b"", 10), b"last"]


@pytest.mark.parametrize("broken", [frame(PING, reserved=4), frame(CONTINUATION, reserved=4), frame(TEXT, reserved=2)])
def test_other_reserved_bits_end_the_stream(broken: bytes) -> None:
    reader = FrameReader(inflates=True)
    stream = (frame(TEXT, fin=False) if broken[0] & 0x0F == CONTINUATION else b"") + broken
    assert read_all(reader, [stream]) == []
    assert reader.ended is not None


@pytest.mark.parametrize(
    ("answers", "agreed"),
    [
        ([], False),
        ([""], False),
        (["permessage-deflate; server_no_context_takeover"], True),
        (["Permessage-Deflate;server_no_context_takeover ; client_no_context_takeover"], True),
        (['permessage-deflate; server_no_context_takeover; server_max_window_bits="10"'], True),
    ],
)
def test_answer_to_the_offer(answers: list[str], agreed: bool) -> None:
    assert is_agreed(answers) is agreed


@pytest.mark.parametrize(
    "answers",
    [
        ["permessage-deflate"],
        ["permessage-deflate; client_no_context_takeover"],
        ["permessage-deflate; server_no_context_takeover=1"],
        ["permessage-deflate; server_no_context_takeover; server_no_context_takeover"],
        ["permessage-deflate; server_no_context_takeover; server_max_window_bits"],
        ["permessage-deflate; server_no_context_takeover; server_max_window_bits=7"],
        ["permessage-deflate; server_no_context_takeover; other"],
        ["permessage-deflate; server_no_context_takeover", "permessage-deflate; server_no_context_takeover"],
        ["permessage-deflate; server_no_context_takeover, x"],
        ["x-webkit-deflate-frame"],
    ],
)
def test_answer_that_was_not_offered(answers: list[str]) -> None:
    with pytest.raises(UnusableAgreement):
        is_agreed(answers)
