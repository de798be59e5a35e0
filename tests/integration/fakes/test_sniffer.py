"""Messages are counted as they were sent, however they were cut, masked or compressed."""

import json

import pytest
from websockets.client import ClientProtocol
from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from tests.fakes.sniffer import Sniffer

HEAD = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"
SAID = [
    ["REQ", "a", {"authors": ["f" * 64] * 40}],
    ["CLOSE", "a"],
    ["REQ", "b", {"authors": ["f" * 64] * 2000}],
    ["NEG-OPEN", "n", {}, "61"],
]


def bytes_of(*extensions: Extension, fragments: bool = False) -> bytes:
    client = ClientProtocol(parse_uri("ws://relay.example"), state=OPEN)
    client.extensions = list(extensions)
    client.max_message_size = None
    for message in SAID:
        text = json.dumps(message).encode()
        if fragments:
            client.send_text(text[:30], fin=False)
            client.send_continuation(text[30:], fin=True)
        else:
            client.send_text(text)
        client.send_ping(b"still there?")
    return HEAD + b"".join(client.data_to_send())


@pytest.mark.parametrize("piece", [1, 7, 100_000])
@pytest.mark.parametrize("fragments", [False, True], ids=["whole", "fragments"])
@pytest.mark.parametrize("deflate", [None, False, True], ids=["plain", "deflate", "deflate-no-context"])
def test_messages_are_counted_by_type(deflate: bool | None, fragments: bool, piece: int) -> None:
    extensions = [] if deflate is None else [PerMessageDeflate(deflate, deflate, 15, 15)]
    data = bytes_of(*extensions, fragments=fragments)
    sniffer = Sniffer()
    for start in range(0, len(data), piece):
        sniffer.feed(data[start : start + piece])
    assert sniffer.messages == {"REQ": 2, "CLOSE": 1, "NEG-OPEN": 1}
