"""Events by the edge of NIP-01 at relays that others wrote: what they hold is accepted here, or named below."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from pipeline.nostr.event import InvalidEvent, verify
from pipeline.nostr.message import EventMessage, parse_relay_message
from tests.factories.events import Author, compact
from tests.fakes.command_relay import CommandRelay
from tests.tools.completeness.foreign.registry import RELAYS, Listed

AUTHOR = Author.from_seed(61, 1)
NOW = 1_780_000_000
PATIENCE_S = 20.0


def made(**changes: Any) -> dict[str, Any]:
    """An event whose id and signature are right, whatever its members."""
    value: dict[str, Any] = {"pubkey": AUTHOR.pubkey, "created_at": NOW, "kind": 1, "tags": [], "content": ""} | changes
    text = compact([0, *(value[name] for name in ("pubkey", "created_at", "kind", "tags", "content"))])
    value["id"] = hashlib.sha256(text).hexdigest()
    return value | {"sig": AUTHOR.sign_id(value["id"])}


ODD = {
    "empty tag": made(tags=[[]]),
    "empty tags among others": made(tags=[["t", "x"], [], ["p", AUTHOR.pubkey], []]),
    "tag with an empty name": made(tags=[["", "x"]]),
    "tag value of 20,000 letters": made(tags=[["x", "y" * 20_000]]),
    "signature in capitals": (signed := made(content="A")) | {"sig": signed["sig"].upper()},
    "created_at 1": made(created_at=1),
    "created_at in milliseconds": made(created_at=NOW * 1_000),
    "highest kind": made(kind=65_535),
    "NUL": made(content="\0", tags=[["t", "\0"]]),
    "DEL": made(content="\x7f"),
}
REFUSED = {
    "created_at -1": made(created_at=-1),
    "kind 65536": made(kind=65_536),
    "number in a tag": made(tags=[["t", 1]]),
}
"""Relays hold these, too. Software in Rust, and some in Go, cannot decode them: a consumer would end at each."""


def copy_at(socket: ClientConnection, value: dict[str, Any]) -> bytes | None:
    """Publish the event, and return the frame in which the relay gives it back, if it does."""
    socket.send(json.dumps(["EVENT", value]))
    while json.loads(socket.recv(PATIENCE_S))[0] not in ("OK", "NOTICE"):
        pass
    socket.send(json.dumps(["REQ", "copy", {"ids": [value["id"]]}]))
    found = None
    while (frame := json.loads(raw := socket.recv(PATIENCE_S, decode=False)))[0] not in ("EOSE", "CLOSED"):
        found = raw if frame[0] == "EVENT" else found
    socket.send(json.dumps(["CLOSE", "copy"]))
    return found


@pytest.mark.parametrize("listed", [pytest.param(each, id=each.name) for each in RELAYS])
def test_odd_events_that_a_foreign_relay_holds_are_accepted(listed: Listed, tmp_path: Path) -> None:
    if not listed.is_installed:
        pytest.skip("bin/peers --all compiles it")
    held, refused = set(), set()
    with CommandRelay(listed.command, tmp_path / "relay", env=listed.env) as relay:
        for name, value in (ODD | REFUSED).items():
            with connect(relay.url, proxy=None, max_size=None) as socket:
                frame = copy_at(socket, value)
            if frame is None:
                continue
            held.add(name)
            try:
                message = parse_relay_message(frame)
                assert isinstance(message, EventMessage)
                verify(message.event)
            except InvalidEvent:
                refused.add(name)
    assert len(held) >= 3, "the relay was not asked as it wants to be"
    assert refused <= REFUSED.keys()
