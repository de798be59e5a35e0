"""Websocket frames written by hand, so that a page goes out in one piece and broken ones can be made at all."""

import socket
import struct
import zlib

from websockets.asyncio.server import ServerConnection

MAX_UNREAD_BYTES = 32 * 1024 * 1024
"""A client that lets more pile up is disconnected, as strfry does."""
LINGER_RESET = struct.pack("ii", 1, 0)
"""`SO_LINGER` that turns the next close into a reset."""
FIN_TEXT = 0x81
FIN_BINARY = 0x82
COMPRESSED = 0x40
_TEXT = 0x01
_CONTINUATION = 0x00
_FIN_CONTINUATION = 0x80


def frame(payload: bytes, first_byte: int = FIN_TEXT) -> bytes:
    """One unmasked frame, by default a whole text message."""
    return frame_header(len(payload), first_byte) + payload


def frame_header(length: int, first_byte: int = FIN_TEXT) -> bytes:
    """The header of an unmasked frame that announces `length` bytes."""
    if length < 126:
        return bytes((first_byte, length))
    if length < 1 << 16:
        return struct.pack("!BBH", first_byte, 126, length)
    return struct.pack("!BBQ", first_byte, 127, length)


def deflated(payload: bytes) -> bytes:
    """The payload of a message compressed by itself (RFC 7692 section 7.2.1)."""
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return (encoder.compress(payload) + encoder.flush(zlib.Z_SYNC_FLUSH))[:-4]


def fragments(payload: bytes, size: int) -> bytes:
    """One text message in fragments of at most `size` bytes."""
    parts = [payload[start : start + size] for start in range(0, len(payload), size)] or [b""]
    if len(parts) == 1:
        return frame(payload)
    middle = b"".join(frame(part, _CONTINUATION) for part in parts[1:-1])
    return frame(parts[0], _TEXT) + middle + frame(parts[-1], _FIN_CONTINUATION)


def endless_fragment(payload: bytes, *, first: bool) -> bytes:
    """A fragment of a message that more will follow of."""
    return frame(payload, _TEXT if first else _CONTINUATION)


def write(connection: ServerConnection, data: bytes) -> None:
    """Put framed bytes on the wire without waiting; a client that does not read is disconnected in the end."""
    if connection.transport.is_closing() or connection.protocol.eof_sent:
        return
    connection.transport.write(data)
    if connection.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
        reset(connection)


def reset(connection: ServerConnection) -> None:
    """Break the TCP connection with a reset; nothing that was still to be sent is."""
    sock = connection.transport.get_extra_info("socket")
    if sock is not None and not connection.transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    connection.transport.abort()
