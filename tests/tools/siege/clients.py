"""Clients of the web server: directly from this machine, or as a visitor that a trusted proxy speaks for."""

import json
import socket
from contextlib import closing
from typing import Final

import websocket

from tests.factories.events import SignedEvent

PROXY: Final = "127.0.0.2"
"""What the service is told to trust; its visitors are strangers by whatever addresses they have."""
TIMEOUT_S: Final = 60.0


def connect(host: str, port: int, visitor: str = "", claims: str = "") -> websocket.WebSocket:
    """Open a websocket; for `visitor` through the trusted proxy. `claims`: an `X-Forwarded-For` of the visitor's own.

    Raises what the connection raises.
    """
    source = (PROXY, 0) if visitor else None
    forwarded = ", ".join(entry for entry in (claims, visitor) if entry)
    sock = socket.create_connection((host, port), TIMEOUT_S, source_address=source)
    try:
        return websocket.create_connection(
            f"ws://{host}:{port}/",
            socket=sock,
            timeout=TIMEOUT_S,
            header=[f"X-Forwarded-For: {forwarded}"] if forwarded else [],
        )
    except BaseException:
        sock.close()
        raise


def register(host: str, port: int, event: SignedEvent, visitor: str = "", claims: str = "") -> tuple[bool, str]:
    """Send an event over a websocket of its own; return whether it was accepted, and the reason.

    No answer, or none that can be read, is a refusal.
    """
    try:
        client = connect(host, port, visitor, claims)
    except (OSError, websocket.WebSocketException) as error:
        # The library's words go on with headers and body.
        return False, f"no connection: {str(error).partition(' -+-+-')[0]}"
    with closing(client.sock), closing(client):
        return publish(client, event)


def publish(client: websocket.WebSocket, event: SignedEvent) -> tuple[bool, str]:
    """Send an event; return whether it was accepted, and the reason."""
    try:
        client.send(f'["EVENT",{event.raw}]')
        answer = json.loads(client.recv())
    except (OSError, ValueError, websocket.WebSocketException) as error:
        return False, f"no answer: {error}"
    match answer:
        case ["OK", event.id, bool(accepted), str(reason)]:
            return accepted, reason
        case _:
            return False, f"no answer: {answer!r}"
