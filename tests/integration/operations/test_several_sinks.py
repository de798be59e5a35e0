"""Several sinks at once: each has everything, whatever becomes of the other, and of the process that delivers to it."""

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from time import time

import pytest

from tests.factories.events import SignedEvent, authors
from tests.fakes.child import ROOT
from tests.fakes.consumer import Consumer
from tests.fakes.emulator import PubSubEmulator, pubsub_emulator
from tests.fakes.net import pause
from tests.fakes.pubsub_process import PubSubProcess
from tests.fakes.pubsub_rules import Rule
from tests.fakes.relay import ScriptedRelay
from tests.fakes.service import EventService, StageProcess, settings
from tests.integration.operations.support import PATIENCE_S, complaint, logged, until, wait_state

emulator = pubsub_emulator
"""The fixture, as pytest finds it."""
PEOPLE = authors(93, 900)
NOW = int(time())
HIGH = {"EVENTS_BACKPRESSURE_HIGH": "100", "EVENTS_BACKPRESSURE_LOW": "50"}


def profiles(first: int, count: int) -> list[SignedEvent]:
    """Those of so many people, always the same."""
    return [
        PEOPLE[number].sign("{}", kind=0, created_at=NOW - 300 + number // 5) for number in range(first, first + count)
    ]


def ids(events: Sequence[SignedEvent]) -> set[str]:
    return {event.id for event in events}


class File:
    """The file of a sink, which can be kept from being written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ids(self) -> list[str]:
        """Of each line, in their order; a last line that is not whole yet is left out."""
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.is_file() else []
        return [json.loads(line)["id"] for line in lines]

    def block(self) -> None:
        """Put a folder where the file is, which has no event yet."""
        assert self.ids() == []
        while not self.path.is_dir():
            self.path.unlink(missing_ok=True)
            try:
                self.path.mkdir()
            except FileExistsError:
                # The forwarder was quicker to make a new file.
                pause(0.01)

    def unblock(self) -> None:
        self.path.rmdir()

    def wait(self, wanted: set[str]) -> None:
        until(lambda: set(self.ids()) == wanted, lambda: f"{len(set(self.ids()))} of {len(wanted)}")


def service_with(folder: Path, relay: ScriptedRelay, pubsub: str, sinks: str, **more: str) -> EventService:
    return EventService(folder, settings(relays=[relay.url], pubsub=pubsub, EVENTS_SINK=sinks, **more))


def queued(service: EventService, queue: str) -> int:
    return int(service.scrape().value("event_service_queue_length", queue=queue))


def wait_queued(service: EventService, queue: str, count: int) -> None:
    until(lambda: queued(service, queue) == count, lambda: queued(service, queue))


def kill_forwarder(service: EventService, sink: str, killed: set[int]) -> None:
    """Kill the one that runs, once there is one that was not killed before."""
    found: list[StageProcess] = []

    def look() -> bool:
        found[:] = [one for one in service.stages("forwarder") if one.sink == sink and one.pid not in killed]
        return len(found) == 1

    until(look, service.stages)
    killed.add(found[0].pid)
    found[0].signal(signal.SIGKILL)


def command(service: EventService, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        env=service.env, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.timeout(400)
def test_each_sink_has_all_though_forwarders_are_killed(tmp_path: Path, emulator: PubSubEmulator) -> None:
    file = File(tmp_path / "events.jsonl")
    with ScriptedRelay(events=profiles(0, 100)) as relay:
        service = service_with(tmp_path, relay, emulator.address, f"pubsub,jsonl:{file.path}")
        with closing(service), Consumer(emulator.address, emulator.subscription) as consumer:
            service.start()
            killed: set[int] = set()
            for turn in (1, 2):
                # In the midst of the work, as far as that can be known.
                relay.publish(*profiles(turn * 300, 300))
                for sink in ("jsonl", ""):
                    kill_forwarder(service, sink, killed)
            everything = ids(profiles(0, 100)) | ids(profiles(300, 600))
            file.wait(everything)
            consumer.wait_events(len(everything), PATIENCE_S)
            assert set(consumer.uuids) == everything
            assert consumer.refused == []
            wait_queued(service, "outbox-pubsub", 0)
            wait_queued(service, "outbox-jsonl", 0)
            assert service.scrape().value("event_service_dead_rows") == 0
            for slot in ("forwarder-0", "forwarder-jsonl-0"):
                service.wait_metric(
                    "event_service_stage_exits_total", lambda value: value == 2, slot=slot, reason="signal"
                )
            shown = command(service, "explain", next(iter(everything)))
            assert "sink pubsub" in shown
            assert "sink jsonl" in shown
            assert service.stop() == 0


@pytest.mark.timeout(400)
def test_a_further_sink_that_is_down_delays_nothing(tmp_path: Path, emulator: PubSubEmulator) -> None:
    """By counts: the first has all of several times the bound of backpressure before the other has any."""
    file = File(tmp_path / "events.jsonl")
    with ScriptedRelay(events=[]) as relay:
        service = service_with(tmp_path, relay, emulator.address, f"pubsub,jsonl:{file.path}", **HIGH)
        with closing(service), Consumer(emulator.address, emulator.subscription) as consumer:
            service.start()
            file.block()
            everything = profiles(0, 500)
            relay.publish(*everything)
            consumer.wait_events(500, PATIENCE_S)
            wait_queued(service, "outbox-jsonl", 500)
            wait_queued(service, "outbox-pubsub", 0)
            wait_state(service, relay, "connected")
            assert complaint(service, "forwarder-jsonl-0", "sink jsonl is down: EISDIR")
            assert service.scrape().value("subscription_queue_length", topic="eventSaved") == 0
            file.unblock()
            file.wait(ids(everything))
            wait_queued(service, "outbox-jsonl", 0)
            assert service.scrape().value("event_service_dead_rows") == 0
            assert service.stop() == 0
        assert set(consumer.uuids) == ids(everything)


@pytest.mark.timeout(400)
def test_the_first_sink_pauses_the_crawl_and_the_other_goes_on(tmp_path: Path) -> None:
    file = File(tmp_path / "events.jsonl")
    everything = profiles(0, 600)
    rules = [Rule(status="UNAVAILABLE")]
    with ScriptedRelay(events=[]) as relay, PubSubProcess(rules=rules) as pubsub:
        service = service_with(tmp_path, relay, pubsub.address, f"pubsub,jsonl:{file.path}", **HIGH)
        with closing(service):
            service.start()
            relay.publish(*everything[:150])
            wait_state(service, relay, "backpressured")
            relay.publish(*everything[150:])
            # What was read before the pause may come for a while.
            until(
                lambda: (
                    queued(service, "inbox") == queued(service, "outbox-jsonl") == 0
                    and len(set(file.ids())) == queued(service, "outbox-pubsub")
                ),
                lambda: (len(set(file.ids())), queued(service, "outbox-pubsub")),
            )
            assert 100 < len(set(file.ids())) < 600
            assert pubsub.count == 0
            pubsub.set_rules()
            pubsub.wait_count(600, 2 * PATIENCE_S)
            file.wait(ids(everything))
            assert service.stop() == 0


def rows(service: EventService) -> dict[str, int]:
    with closing(sqlite3.connect(service.database)) as found:
        return dict(found.execute("SELECT sink, count(*) FROM outbox GROUP BY sink"))


@pytest.mark.timeout(400)
def test_a_sink_that_is_taken_out_keeps_its_rows_and_its_name(tmp_path: Path) -> None:
    """Those of the other go on; it has them when it is named again, and no others."""
    file = File(tmp_path / "events.jsonl")
    both = f"pubsub,jsonl:{file.path}"
    with ScriptedRelay(events=[]) as relay, PubSubProcess(rules=[Rule(status="UNAVAILABLE")]) as pubsub:
        service = service_with(tmp_path, relay, pubsub.address, both)
        with closing(service):
            service.start()
            relay.publish(*profiles(0, 50))
            wait_queued(service, "outbox-pubsub", 50)
            file.wait(ids(profiles(0, 50)))
            assert service.stop() == 0

            service.env["EVENTS_SINK"] = f"jsonl:{file.path}"
            service.start()
            relay.publish(*profiles(50, 50))
            file.wait(ids(profiles(0, 100)))
            wait_queued(service, "outbox-jsonl", 0)
            shown = command(service, "status")
            assert "outbox-pubsub: 50 events kept for a sink that is off" in shown
            assert "dead drop --sink pubsub" in shown
            assert [one.sink for one in service.stages("forwarder")] == [""]
            assert service.stop() == 0
            assert rows(service) == {"pubsub": 50}

            pubsub.set_rules()
            service.env["EVENTS_SINK"] = both
            service.start()
            pubsub.wait_count(50, PATIENCE_S)
            relay.publish(*profiles(100, 50))
            pubsub.wait_count(100, PATIENCE_S)
            file.wait(ids(profiles(0, 150)))
            assert service.stop() == 0
            delivered = {json.loads(each.data)["id"] for each in pubsub.deliveries()}
            assert delivered == ids(profiles(0, 50)) | ids(profiles(100, 50))


def test_sink_that_joins_by_hand_takes_nothing_from_the_service(tmp_path: Path) -> None:
    """The only sink goes by another name then: saver and forwarder end once, and go on under it."""
    file = File(tmp_path / "events.jsonl")
    with ScriptedRelay(events=[]) as relay:
        service = EventService(tmp_path, settings(relays=[relay.url], EVENTS_SINK=f"jsonl:{file.path}"))
        with closing(service):
            service.start()
            relay.publish(*profiles(0, 20))
            file.wait(ids(profiles(0, 20)))
            by_hand = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", "stage", "forwarder", "--sink", "stdout"],
                env=service.env | {"EVENTS_SINK": f"jsonl:{file.path},stdout"},
                cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                different = "different settings: jsonl,stdout in forwarder-stdout-0; jsonl in supervisor"
                until(lambda: different in command(service, "status"), lambda: command(service, "status"))
                relay.publish(*profiles(20, 20))
                file.wait(ids(profiles(0, 40)))
                assert len(file.ids()) == 40
            finally:
                by_hand.terminate()
                by_hand.wait()
            # The file has what is settled a moment later.
            until(lambda: rows(service) == {}, lambda: rows(service))
            assert service.scrape().value("event_service_dead_rows") == 0
            assert logged(service, "stage ends to be started again")
            assert service.stop() == 0


def test_a_forwarder_is_asked_for_by_a_sink_that_there_is(tmp_path: Path) -> None:
    service = EventService(tmp_path, settings(EVENTS_SINK=f"stdout,jsonl:{tmp_path / 'e.jsonl'}"))
    assert "there is no sink nats; EVENTS_SINK names stdout, jsonl" in command(
        service, "stage", "forwarder", "--sink", "nats"
    )
    assert "--sink goes with forwarder alone" in command(service, "stage", "saver", "--sink", "jsonl")
