"""WebSocket frames from a server (RFC 6455 section 5), parsed out of whatever pieces the network delivers.

websocket-client parses them too, one blocking read at a time; over the same bytes this is several times as fast and its
work is linear in the bytes received however they are cut. Tests hold that both agree.
"""

from dataclasses import dataclass

from pipeline.relay.deflate import inflate, inflate_head
from pipeline.relay.errors import LossReason

# Events of a relay are at most a few hundred KB; negentropy answers reach 2 MB.
MAX_MESSAGE_BYTES = 4 << 20
# What is larger than a message may be is read past, but not for ever.
MAX_SKIPPED_BYTES = 64 << 20
# At 1 KiB a fragment, the largest message; without a bound empty fragments would go on for ever.
MAX_FRAGMENTS = MAX_SKIPPED_BYTES >> 10
# Of a message that is skipped so much is kept at each end: enough for its subscription, and mostly for its time.
SKIPPED_END_BYTES = 512
# One hand-over to whoever parses the messages: enough to make its fixed cost small.
MAX_BATCH_MESSAGES = 256
# A few bytes may be compressed from a thousand times as many: no more than this is made of them at once.
MAX_BATCH_INFLATED_BYTES = 8 << 20

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_OPCODES = frozenset({_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG})
_FIN, _RESERVED, _COMPRESSED, _OPCODE, _MASK, _LENGTH = 0x80, 0x70, 0x40, 0x0F, 0x80, 0x7F
_WHOLE = bytes((_FIN | _TEXT, _FIN | _BINARY))
_WHOLE_COMPRESSED = bytes(first | _COMPRESSED for first in _WHOLE)
_MAX_CONTROL_LENGTH = 125
# RFC 6455 section 7.4.1, as registered with IANA; 3000 to 4999 are for libraries and applications.
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


@dataclass(frozen=True, slots=True)
class SkippedMessage:
    """A message that was read past, since it is too long or cannot be inflated: its ends, and its size on the wire, or
    as far as it was inflated.

    `tail` is empty for a compressed one.
    """

    head: bytes
    tail: bytes
    size: int


Received = bytes | SkippedMessage


class _Passed:
    """The payload of a message that is being read past, of which only the ends are kept."""

    __slots__ = ("head", "size", "tail")

    def __init__(self, begun: bytes | bytearray) -> None:
        self.head = b""
        self.tail = b""
        self.size = 0
        self.extend(bytes(begun))

    def extend(self, part: bytes) -> None:
        """Go past `part`."""
        self.size += len(part)
        if len(self.head) < SKIPPED_END_BYTES:
            self.head += part[: SKIPPED_END_BYTES - len(self.head)]
        self.tail = (self.tail + part[-SKIPPED_END_BYTES:])[-SKIPPED_END_BYTES:]


class FrameReader:
    """Bytes in with `feed`, whole messages out with `take`.

    Holds at most one message of `max_message_bytes` in the making, twice over while it is completed, besides what was
    fed. A longer one is skipped and stands among the others as `SkippedMessage`; one beyond `MAX_SKIPPED_BYTES` ends
    the stream. Text is not checked for UTF-8: the JSON parser does that. Binary messages are taken for text, since some
    relays send JSON so. `inflates`: messages may be compressed, each by itself (RFC 7692). `ping` is the payload of the
    newest ping, until its answerer sets it to None: RFC 6455 section 5.5.3 lets a pong answer only the most recent one.
    """

    __slots__ = (
        "_at",
        "_data",
        "_first",
        "_fragment_count",
        "_fragments",
        "_inflated_bytes",
        "_inflates",
        "_is_compressed",
        "_max_message_bytes",
        "_missing",
        "_passed",
        "_payload",
        "_size",
        "_whole",
        "ended",
        "ping",
    )

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES, *, inflates: bool = False) -> None:
        self._max_message_bytes = max_message_bytes
        self._inflates = inflates
        # What was made of compressed messages since `take` began.
        self._inflated_bytes = 0
        # How the common frames begin.
        self._whole = _WHOLE + _WHOLE_COMPRESSED if inflates else _WHOLE
        self._data = b""  # fed, and from `_at` on not parsed
        self._at = 0
        # Of a frame, begun by `_first`, whose last `_missing` bytes are to come.
        self._payload: bytearray | _Passed | None = None
        self._missing = 0
        self._first = 0
        # Of a message whose first frame has begun: its size as announced, whether it is compressed, its payload if it
        # is being skipped; and if its first frame is over and was not its last, what came of it.
        self._size = 0
        self._is_compressed = False
        self._passed: _Passed | None = None
        self._fragments: bytearray | None = None
        self._fragment_count = 0
        self.ping: bytes | None = None
        self.ended: tuple[LossReason, str] | None = None
        """Why no message will ever follow those already taken: a close frame, or one that is not allowed."""

    def feed(self, data: bytes) -> None:
        """Add bytes as they were received; linear work when `take` returned [] before."""
        if self._payload is not None and self._missing:
            part = data[: self._missing]
            self._payload.extend(part)
            self._missing -= len(part)
            data = data[len(part) :]
        rest = self._data[self._at :]
        self._data = rest + data if rest else data
        self._at = 0

    def take(self) -> list[Received]:
        """The next complete messages, a batch at most (see `is_full`); [] when more bytes are needed or `ended`."""
        messages: list[Received] = []
        self._inflated_bytes = 0
        while self.ended is None and not self.is_full(messages):
            if self._payload is None and self._fragments is None:
                self._scan(messages)
            if self.is_full(messages):
                return messages
            if not self._step(messages):
                break
        self._data, self._at = self._data[self._at :], 0  # part of a header at most: nothing large lives on
        return messages

    @property
    def is_midway(self) -> bool:
        """Whether a message has begun whose end is to come."""
        return bool(self._data) or self._payload is not None or self._fragments is not None

    def is_full(self, messages: list[Received]) -> bool:
        """Return True if these, which `take` gave last, are a whole batch, so that there may be more already."""
        return len(messages) >= MAX_BATCH_MESSAGES or self._inflated_bytes >= MAX_BATCH_INFLATED_BYTES

    def _scan(self, messages: list[Received]) -> None:
        """Take the common frame, a whole message of less than 64 KiB, as long as it comes; others are `_step`'s."""
        data, at, end, longest, whole = self._data, self._at, len(self._data), self._max_message_bytes, self._whole
        room = MAX_BATCH_MESSAGES - len(messages)
        while room and at + 2 <= end and data[at] in whole and self._inflated_bytes < MAX_BATCH_INFLATED_BYTES:
            length = data[at + 1]
            start = at + 2
            if length >= 126:
                if length != 126 or at + 4 > end:
                    break
                length = data[at + 2] << 8 | data[at + 3]
                start = at + 4
            stop = start + length
            if stop > end or length > longest:
                break
            message = data[start:stop]
            messages.append(self._inflated(message) if data[at] & _COMPRESSED else message)
            at = stop
            room -= 1
        self._at = at

    def _step(self, messages: list[Received]) -> bool:
        """Take one frame of any kind; False when it is not all there yet or ends the stream."""
        if self._payload is None:
            self._begin()
        if self._payload is None or self._missing:
            return False
        payload, self._payload = self._payload, None
        if isinstance(payload, _Passed):
            self._accept(b"", messages)
            return self.ended is None
        opcode = self._first & _OPCODE
        if opcode == _PING:
            self.ping = bytes(payload)
        elif opcode == _CLOSE:
            self._close(bytes(payload))
        elif opcode != _PONG:
            self._accept(bytes(payload), messages)
        return self.ended is None

    def _begin(self) -> None:
        """Read a frame's header, if all of it is there, and as much of the payload as there is."""
        data, at = self._data, self._at
        if len(data) < at + 2:
            return
        first, second = data[at], data[at + 1]
        violation = self._violation(first, second)
        if violation is not None:
            self._end(LossReason.PROTOCOL, violation)
            return
        length = second & _LENGTH
        start = at + 2
        if length >= 126:
            start += 2 if length == 126 else 8
            if len(data) < start:
                return
            length = int.from_bytes(data[at + 2 : start], "big")
        if first & _OPCODE < _CLOSE and not self._has_room(first, length):
            self._end(LossReason.TOO_LARGE, f"message of more than {MAX_SKIPPED_BYTES} bytes")
            return
        self._first = first
        payload = bytearray() if first & _OPCODE >= _CLOSE or self._passed is None else self._passed
        payload.extend(data[start : start + length])
        self._payload = payload
        self._at = min(start + length, len(data))
        self._missing = start + length - self._at

    def _has_room(self, first: int, length: int) -> bool:
        """Begin a frame of a message, skipping the message from here on if it is too long; False if much too long."""
        if first & _OPCODE != _CONTINUATION:
            self._size = 0
            self._is_compressed = bool(first & _COMPRESSED)
        self._size += length
        if self._size > MAX_SKIPPED_BYTES:
            return False
        if self._size > self._max_message_bytes and self._passed is None:
            self._passed = _Passed(self._fragments or b"")
            if self._fragments is not None:
                self._fragments = bytearray()
        return True

    def _violation(self, first: int, second: int) -> str | None:
        """What RFC 6455 forbids in the first two bytes of a frame that comes now."""
        opcode = first & _OPCODE
        may_be_compressed = self._inflates and opcode in (_TEXT, _BINARY)
        if first & _RESERVED & ~(_COMPRESSED if may_be_compressed else 0):
            return "reserved bits are set"
        if opcode not in _OPCODES:
            return f"unknown opcode {opcode}"
        if second & _MASK:
            return "masked frame"
        if opcode >= _CLOSE:
            if not first & _FIN or second & _LENGTH > _MAX_CONTROL_LENGTH:
                return "control frame too long or fragmented"
        elif (opcode == _CONTINUATION) != (self._fragments is not None):
            return "message begins within another or continues none"
        return None

    def _accept(self, payload: bytes, messages: list[Received]) -> None:
        """Act on a whole frame of data: deliver it, or add it to its message."""
        final = bool(self._first & _FIN)
        if self._first & _OPCODE != _CONTINUATION:
            if final:
                self._deliver(payload, messages)
                return
            self._fragments, self._fragment_count = bytearray(), 0
        assert self._fragments is not None, "a continuation without a beginning is a violation"
        self._fragment_count += 1
        if self._fragment_count > MAX_FRAGMENTS:
            self._end(LossReason.TOO_LARGE, f"message of more than {MAX_FRAGMENTS} fragments")
            return
        self._fragments += payload
        if final:
            self._deliver(bytes(self._fragments), messages)
            self._fragments = None

    def _deliver(self, message: bytes, messages: list[Received]) -> None:
        passed, self._passed = self._passed, None
        if passed is None:
            messages.append(self._inflated(message) if self._is_compressed else message)
        elif self._is_compressed:
            head = inflate_head(passed.head, SKIPPED_END_BYTES)
            messages.append(SkippedMessage(head, b"", passed.size))
        else:
            messages.append(SkippedMessage(passed.head, passed.tail, passed.size))

    def _inflated(self, message: bytes) -> Received:
        inflated = inflate(message, self._max_message_bytes)
        if inflated is None:
            head = inflate_head(message, SKIPPED_END_BYTES)
            # What it cost, rather than the few bytes that it may be on the wire.
            size = self._max_message_bytes if head else len(message)
            self._inflated_bytes += size
            return SkippedMessage(head, b"", size)
        self._inflated_bytes += len(inflated)
        return inflated

    def _close(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big")
        if not payload:
            self._end(LossReason.CLOSED, "no reason given")
        elif len(payload) == 1 or not (code in _CLOSE_CODES or 3000 <= code < 5000):
            self._end(LossReason.PROTOCOL, "close frame without a valid code")
        else:
            self._end(LossReason.CLOSED, f"{code} {payload[2:].decode('utf-8', 'replace')}")

    def _end(self, reason: LossReason, detail: str) -> None:
        self.ended = (reason, detail)
        self._data, self._at, self._payload, self._fragments, self._passed = b"", 0, None, None, None
