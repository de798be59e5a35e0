"""The demo's relay, asked as any relay is."""

import asyncio
import json
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from pipeline.demo.relay import DemoRelay
from pipeline.nostr.event import Event, sign

SECRET = bytes(31) + b"\x05"
PATIENCE_S = 60.0


def note(created_at: int) -> Event:
    return sign(SECRET, created_at=created_at, kind=1, tags=[], content=f"note {created_at}")


async def ask(client: ClientConnection, *message: Any) -> list[Any]:
    """Everything up to the EOSE or NOTICE that answers."""
    await client.send(json.dumps(message))
    answers: list[Any] = []
    while not answers or answers[-1][0] not in ("EOSE", "NOTICE"):
        answers.append(json.loads(await client.recv()))
    return answers


async def _conversation() -> None:
    relay = DemoRelay()
    for at in range(1, 6):
        relay.publish(note(at))
    async with relay.serving() as address, connect(address) as client, asyncio.timeout(PATIENCE_S):
        stored = await ask(client, "REQ", "s", {"kinds": [1], "until": 4, "limit": 2})
        assert [answer[2]["created_at"] for answer in stored[:-1]] == [4, 3]
        assert stored[-1] == ["EOSE", "s"]
        assert await ask(client, "REQ", "live", {"since": 6, "limit": 0}) == [["EOSE", "live"]]
        relay.publish(note(6))
        assert json.loads(await client.recv())[:2] == ["EVENT", "live"]
        await client.send(json.dumps(["CLOSE", "live"]))
        (answer,) = await ask(client, "REQ", "bad", {"kinds": "all"})
        assert answer[0] == "NOTICE"
        (answer,) = await ask(client, "WHAT", 1)
        assert answer == ["NOTICE", "unsupported"]
        relay.publish(note(7))
        await client.send("no frame")
        assert json.loads(await client.recv())[0] == "NOTICE"


def test_a_conversation() -> None:
    asyncio.run(_conversation())
