"""What a Nostr client says, read from the bytes of its connection by somebody in between."""

import zlib
from collections import Counter

_HEAD_END = b"\r\n\r\n"
_NO_CONTEXT_TAIL = b"\x00\x00\xff\xff"
_LABEL_BYTES = 16
_FIN, _RSV1, _OPCODE = 0x80, 0x40, 0x0F
_TEXT, _BINARY, _CONTINUATION = 1, 2, 0


class Sniffer:
    """The client's side of one connection; `messages` counts each type (REQ, CLOSE, NEG-OPEN …) that it sent."""

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()
        self._buffer = bytearray()
        self._has_head = False
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._compressed = False

    def feed(self, data: bytes) -> None:
        """Take what came next."""
        self._buffer += data
        if not self._has_head:
            _, end, rest = self._buffer.partition(_HEAD_END)
            if not end:
                return
            self._has_head = True
            self._buffer = rest
        while self._take_frame():
            pass

    def _take_frame(self) -> bool:
        """Read one whole frame, if there is one."""
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        length, at = buffer[1] & 0x7F, 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length, at = int.from_bytes(buffer[at : at + size]), at + size
        mask_bytes = 4 if buffer[1] & 0x80 else 0
        end = at + mask_bytes + length
        if len(buffer) < end:
            return False
        mask, payload = bytes(buffer[at : at + mask_bytes]), bytes(buffer[at + mask_bytes : end])
        self._on_frame(buffer[0], mask, payload)
        del buffer[:end]
        return True

    def _on_frame(self, first: int, mask: bytes, payload: bytes) -> None:
        opcode = first & _OPCODE
        if opcode in (_TEXT, _BINARY):
            self._compressed = bool(first & _RSV1)
        elif opcode != _CONTINUATION:
            return
        if self._compressed:
            # All of it goes through the inflater, whose window the next message may refer to.
            text = self._inflater.decompress(_unmasked(payload, mask))
            if first & _FIN:
                text += self._inflater.decompress(_NO_CONTEXT_TAIL)
        else:
            text = _unmasked(payload[:_LABEL_BYTES], mask)
        if opcode != _CONTINUATION:
            self.messages[_label(text)] += 1


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    if not mask or not payload:
        return payload
    whole = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(whole)).to_bytes(len(payload))


def _label(text: bytes) -> str:
    parts = text[:_LABEL_BYTES].split(b'"')
    return parts[1].decode("ascii", "replace") if len(parts) > 1 else "?"
