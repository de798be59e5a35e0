"""WebSocket frames from a server (RFC 6455 section 5), parsed out of whatever pieces the network delivers.

websocket-client parses them too, one blocking read at a time; over the same bytes this is several times as fast and its
work is linear in the bytes received however they are cut. Tests hold that both agree.
"""

from pipeline.relay.errors import LossReason

# Events of a relay are at most a few hundred KB; negentropy answers reach 2 MB.
MAX_MESSAGE_BYTES = 4 << 20
# At 1 KiB a fragment, the largest message; without a bound empty fragments would go on for ever.
MAX_FRAGMENTS = 4096
# One hand-over to whoever parses the messages: enough to make its fixed cost small.
MAX_BATCH_MESSAGES = 256

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_OPCODES = frozenset({_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG})
_FIN, _RESERVED, _OPCODE, _MASK, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
_WHOLE_TEXT = _FIN | _TEXT
_MAX_CONTROL_LENGTH = 125
# RFC 6455 section 7.4.1, as registered with IANA; 3000 to 4999 are for libraries and applications.
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


class FrameReader:
    """Bytes in with `feed`, whole text messages out with `take`.

    Holds at most one message of `max_message_bytes` in the making, twice over while it is completed, besides what was
    fed. Text is not checked for UTF-8: the JSON parser does that. Binary messages have no meaning in Nostr; they are
    counted in `binary_ignored` and dropped. `ping` is the payload of the newest ping, until its answerer sets it to
    None: RFC 6455 section 5.5.3 lets a pong answer only the most recent one.
    """

    __slots__ = (
        "_at",
        "_binary",
        "_data",
        "_first",
        "_fragment_count",
        "_fragments",
        "_max_message_bytes",
        "_missing",
        "_payload",
        "binary_ignored",
        "ended",
        "ping",
    )

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_message_bytes = max_message_bytes
        self._data = b""  # fed, and from `_at` on not parsed
        self._at = 0
        self._payload: bytearray | None = None  # of a frame, begun by `_first`, whose last `_missing` bytes are to come
        self._missing = 0
        self._first = 0
        self._fragments: bytearray | None = None  # of a fragmented message; stays empty where that is `_binary`
        self._fragment_count = 0
        self._binary = False
        self.ping: bytes | None = None
        self.binary_ignored = 0
        self.ended: tuple[LossReason, str] | None = None
        """Why no message will ever follow those already taken: a close frame, or one that is not allowed."""

    def feed(self, data: bytes) -> None:
        """Add bytes as they were received; linear work when `take` returned [] before."""
        if self._payload is not None and self._missing:
            part = data[: self._missing]
            self._payload += part
            self._missing -= len(part)
            data = data[len(part) :]
        rest = self._data[self._at :]
        self._data = rest + data if rest else data
        self._at = 0

    def take(self) -> list[bytes]:
        """The next complete text messages, at most `MAX_BATCH_MESSAGES`; [] when more bytes are needed or `ended`."""
        messages: list[bytes] = []
        while self.ended is None and len(messages) < MAX_BATCH_MESSAGES:
            if self._payload is None and self._fragments is None:
                self._scan(messages)
            if len(messages) == MAX_BATCH_MESSAGES:
                return messages
            if not self._step(messages):
                break
        self._data, self._at = self._data[self._at :], 0  # part of a header at most: nothing large lives on
        return messages

    def _scan(self, messages: list[bytes]) -> None:
        """Take the common frame, a whole text of less than 64 KiB, as long as it comes; anything else is `_step`'s."""
        data, at, end, longest = self._data, self._at, len(self._data), self._max_message_bytes
        room = MAX_BATCH_MESSAGES - len(messages)
        while room and at + 2 <= end and data[at] == _WHOLE_TEXT:
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
            messages.append(data[start:stop])
            at = stop
            room -= 1
        self._at = at

    def _step(self, messages: list[bytes]) -> bool:
        """Take one frame of any kind; False when it is not all there yet or ends the stream."""
        if self._payload is None:
            self._begin()
        if self._payload is None or self._missing:
            return False
        payload, self._payload = bytes(self._payload), None
        opcode = self._first & _OPCODE
        if opcode == _PING:
            self.ping = payload
        elif opcode == _CLOSE:
            self._close(payload)
        elif opcode != _PONG:
            self._accept(opcode, payload, messages)
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
        before = len(self._fragments) if self._fragments and first & _OPCODE == _CONTINUATION else 0
        if before + length > self._max_message_bytes:
            self._end(LossReason.TOO_LARGE, f"message of more than {self._max_message_bytes} bytes")
            return
        self._first = first
        self._payload = bytearray(data[start : start + length])
        self._missing = length - len(self._payload)
        self._at = start + len(self._payload)

    def _violation(self, first: int, second: int) -> str | None:
        """What RFC 6455 forbids in the first two bytes of a frame that comes now."""
        opcode = first & _OPCODE
        if first & _RESERVED:
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

    def _accept(self, opcode: int, payload: bytes, messages: list[bytes]) -> None:
        """Act on a whole frame of data: deliver it, or add it to its message."""
        final = bool(self._first & _FIN)
        if opcode != _CONTINUATION:
            self._binary = opcode == _BINARY
            if final:
                self._deliver(payload, messages)
                return
            self._fragments, self._fragment_count = bytearray(), 0
        assert self._fragments is not None, "a continuation without a beginning is a violation"
        self._fragment_count += 1
        if self._fragment_count > MAX_FRAGMENTS:
            self._end(LossReason.TOO_LARGE, f"message of more than {MAX_FRAGMENTS} fragments")
            return
        if not self._binary:
            self._fragments += payload
        if final:
            self._deliver(bytes(self._fragments), messages)
            self._fragments = None

    def _deliver(self, message: bytes, messages: list[bytes]) -> None:
        if self._binary:
            self.binary_ignored += 1
        else:
            messages.append(message)

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
        self._data, self._at, self._payload, self._fragments = b"", 0, None, None
