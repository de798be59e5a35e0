"""What one event costs in the protocol library, as rates and as shares of bare signature verification.

Run with `python -m tests.tools.bench.protocol`; a table and then one line of JSON. Rates count processor time of one
thread, and the steps take turns, so that a busy machine changes the shares little.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import coincurve
import orjson

from pipeline.nostr import event as event_module
from pipeline.nostr.event import Event, event_id, parse_event, sign, verify
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import EventMessage, InvalidEventMessage, parse_relay_message
from tests.corpus import REAL, real
from tests.tools.bench.report import Figure, PartReport, per_second

BARE = "bare verification"

_PEEK = re.compile(rb'"id"[ \t\r\n]*:[ \t\r\n]*"([0-9a-f]{64})"')


def peek_event_id(raw: bytes) -> bytes | None:
    """The id cut out of a frame without parsing it, or None when only parsing can tell.

    The measured alternative that the library does not use: to be sure of the id the whole frame must be searched for a
    second key, plain or escaped, and that costs as much as orjson needs to parse it.
    """
    start = raw.find(b'"id"')
    if start < 0 or raw.find(b'"id"', start + 4) >= 0 or b"\\u006" in raw:
        return None
    match = _PEEK.match(raw, start)
    return bytes.fromhex(match[1].decode()) if match else None


def typical_frames(count: int) -> list[bytes]:
    """Frames of about 770 bytes: replies with three tags, by a hundred authors."""
    frames = []
    for number in range(count):
        tags = [["e", f"{number:064x}", "wss://relay.example", "reply"], ["p", f"{number + 1:064x}"], ["t", "bench"]]
        event = sign(
            (number % 100 + 1).to_bytes(32),
            created_at=1_700_000_000 + number,
            kind=1,
            tags=tags,
            content=f"reply {number}: a line of text with “quotes”, a newline\nand a link https://example.com/ "
            + "x" * 95,
        )
        frames.append(b'["EVENT","sub1",' + event.to_json() + b"]")
    return frames


def real_frames() -> list[bytes]:
    """The corpus of real events as frames, without those that are refused."""
    frames = [b'["EVENT","sub1",' + line + b"]" for line in real().event_lines()]
    return [frame for frame in frames if is_accepted(frame)]


def is_accepted(frame: bytes) -> bool:
    try:
        parse_relay_message(frame)
    except InvalidEventMessage:
        return False
    return True


def whole(frame: bytes) -> None:
    message = parse_relay_message(frame)
    assert isinstance(message, EventMessage)
    verify(message.event)


def bare_verification(event: Event) -> None:
    if not coincurve.PublicKeyXOnly(event.pubkey).verify(event.sig, event.id):
        raise AssertionError(event)


def whole_by_a_stranger(frame: bytes) -> None:
    """As `whole`, for an author whose key was not parsed before."""
    event_module._parsed_key.cache_clear()
    whole(frame)


Step = tuple[Callable[[Any], object], Sequence[Any]]


def steps(frames: Sequence[bytes]) -> dict[str, Step]:
    """What is measured, each with its inputs."""
    values = [orjson.loads(frame)[2] for frame in frames]
    events = [parse_event(value) for value in values]
    seen = {event.id for event in events}
    wanted = Filter(
        authors=frozenset({event.pubkey for event in events[:500]}),
        tags=(("p", frozenset(f"{number:064x}" for number in range(500))),),
        since=1_700_000_000,
    )
    return {
        BARE: (bare_verification, events),
        "orjson.loads": (orjson.loads, frames),
        "parse_event": (parse_event, values),
        "parse_relay_message": (parse_relay_message, frames),
        "event_id": (event_id, events),
        "verify": (verify, events),
        "whole": (whole, frames),
        "whole, key not yet parsed": (whole_by_a_stranger, frames),
        "Filter.matches": (wanted.matches, events),
        "Event.to_json": (Event.to_json, events),
        "duplicate: parse_relay_message(seen)": (lambda frame: parse_relay_message(frame, seen), frames),
        "duplicate: orjson.loads and id": (lambda frame: bytes.fromhex(orjson.loads(frame)[2]["id"]), frames),
        "duplicate: peek at the id": (peek_event_id, frames),
    }


def measure(frames: Sequence[bytes], rounds: int) -> dict[str, float]:
    """Events per second of processor time, per step: the best of rounds in which every step has its turn."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, (step, inputs) in steps(frames).items():
            started = time.thread_time()
            for item in inputs:
                step(item)
            spent = time.thread_time() - started
            best[name] = max(best.get(name, 0.0), len(inputs) / spent)
    return best


def report(name: str, frames: Sequence[bytes], rounds: int) -> dict[str, Any]:
    """Measure one set of frames and print its table."""
    rates = measure(frames, rounds)
    bare = rates[BARE]
    size = sum(map(len, frames)) // len(frames)
    print(f"\n{name}: {len(frames)} frames of {size} bytes on average")
    print(f"{'step':38}{'events/s':>12}{'µs':>9}{'share of bare verification':>30}")
    for step, value in rates.items():
        print(f"{step:38}{value:12,.0f}{1e6 / value:9.2f}{value / bare:30.2f}")
    return {
        "frames": len(frames),
        "bytes": size,
        "per_second": {step: round(value) for step, value in rates.items()},
        "share": {step: round(value / bare, 3) for step, value in rates.items()},
    }


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `protocol`."""
    frames, rounds = (500, 2) if quick else (2000, 5)
    figures: list[Figure] = []
    sets = {"typical": typical_frames(frames)}
    if REAL is not None:
        sets["real"] = real_frames()[:frames]
    for name, chosen in sets.items():
        size = sum(map(len, chosen)) // len(chosen)
        for step, rate in measure(chosen, rounds).items():
            figures.append(per_second(f"{name}: {step}", rate, limit, f"{1e6 / rate:.1f} us, {size} bytes"))
    return PartReport("protocol", tuple(figures), ("events per second of processor time of one thread",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=2000)
    options = parser.parse_args()
    results = {"typical": report("typical events", typical_frames(options.frames), options.rounds)}
    if REAL is not None:
        results["real"] = report("real events", real_frames(), options.rounds)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
