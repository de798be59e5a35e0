"""From a relay to Pub/Sub, as a new user runs it: everything relevant, nothing else, whatever is killed."""

import json
import os
import random
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, time

import pytest

from tests.acceptance.e2e_scenario import ARRIVAL_TIMEOUT_S, EmulatorConsumer, FakeConsumer, scenario
from tests.fakes.emulator import emulator_program
from tests.fakes.service import EventService, settings
from tests.support.seeds import told_seed

EVENTS = 20_000
KILLED_EVENTS = 6_000


@pytest.fixture(
    params=[
        FakeConsumer,
        pytest.param(
            EmulatorConsumer,
            marks=pytest.mark.skipif(emulator_program() is None, reason="the Pub/Sub emulator is not installed"),
        ),
    ],
    ids=["fake", "emulator"],
)
def consumer(request: pytest.FixtureRequest) -> Iterator[FakeConsumer | EmulatorConsumer]:
    with request.param() as started:
        yield started


@pytest.mark.long
@pytest.mark.timeout(900)
def test_everything_relevant_arrives_and_nothing_else(
    tmp_path: Path, consumer: FakeConsumer | EmulatorConsumer
) -> None:
    """20,000 events on a relay capped at 500, three users registered over the websocket."""
    with scenario(tmp_path, consumer, events=EVENTS) as run:
        run.service.start()
        began = monotonic()
        run.register()
        due = len(run.oracle.required())
        run.consumer.collect(due, ARRIVAL_TIMEOUT_S)
        print(f"{due} relevant of {EVENTS} events in {monotonic() - began:.1f} s")
        report = run.finish()
        print(report.text())
        assert report.clean
        assert report.exactly_once


@pytest.mark.timeout(900)
def test_live_events_arrive_within_moments(tmp_path: Path, consumer: FakeConsumer | EmulatorConsumer) -> None:
    """200 events published one by one while the service runs."""
    with scenario(tmp_path, consumer, events=200) as run:
        run.service.start()
        run.register()
        due = len(run.oracle.required())
        run.consumer.collect(due, ARRIVAL_TIMEOUT_S)
        user = run.users[0]
        for number in range(200):
            event = user.sign(f"live {number}", kind=1, created_at=int(time()))
            run.oracle.hold(run.relay.url, [event], live=True)
            run.relay.publish([event])
        report = run.finish()
        print(report.text())
        assert report.clean


@pytest.mark.timeout(900)
def test_killing_stages_changes_nothing(tmp_path: Path) -> None:
    """SIGKILL of a random stage, again and again, then of the supervisor; after a restart all is there."""
    rng = random.Random(told_seed())
    with FakeConsumer() as consumer, scenario(tmp_path, consumer, events=KILLED_EVENTS) as run:
        run.service.start()
        run.register()
        for name in rng.sample(["crawler", "saver", "forwarder", "sender", "sweeper", "server"] * 2, 12):
            victims = run.service.stages(name)
            if victims:
                # Gone already, if it was killed before.
                with suppress(ProcessLookupError):
                    rng.choice(victims).signal(signal.SIGKILL)
        left = []
        for member in run.service.processes():
            with suppress(ProcessLookupError):
                left.append(os.pidfd_open(member.pid))
        run.service.kill()
        for descriptor in left:
            assert select.select([descriptor], [], [], 60.0)[0], "a stage outlives its supervisor"
            os.close(descriptor)
        run.service.start()
        report = run.finish()
        print(report.text())
        assert report.clean


@pytest.mark.timeout(900)
def test_a_second_forwarder_takes_part(tmp_path: Path) -> None:
    """`stage forwarder` by hand beside a running service: all arrives, and its slot shows in the metrics."""
    with FakeConsumer() as consumer, scenario(tmp_path, consumer, events=KILLED_EVENTS) as run:
        run.service.start()
        by_hand = EventService.stage("forwarder", run.service.directory, run.service.env)
        by_hand.start()
        try:
            run.service.wait_metric("process_threads", lambda threads: threads > 0, slot="forwarder-1")
            run.register()
            report = run.finish()
        finally:
            assert by_hand.stop() == 0
        print(report.text())
        assert report.clean


def _no_directory(tmp_path: Path) -> dict[str, str]:
    return {"EVENTS_DATABASE_PATH": str(tmp_path / "missing" / "events.db")}


def _no_database(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but somebody's notes\n" * 100)
    return {"EVENTS_DATABASE_PATH": str(path)}


def _unreadable_credentials(tmp_path: Path) -> dict[str, str]:
    return {
        "EVENTS_ENVIRONMENT": "PRODUCTION",
        "EVENTS_GOOGLE_PUBSUB_PROJECT_ID": "test",
        "EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH": str(tmp_path / "missing.json"),
    }


def _broken_credentials(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "key.json"
    path.write_text(json.dumps({"type": "service_account", "private_key": "-----BEGIN secret"}))
    return _unreadable_credentials(tmp_path) | {"EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH": str(path)}


def _wrong_settings(_: Path) -> dict[str, str]:
    return {"EVENTS_CRAWLERS": "none", "EVENTS_BACKFILL": "yesterday"}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (_no_directory, "cannot be opened"),
        (_no_database, "no SQLite database"),
        (_unreadable_credentials, "EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH"),
        (_broken_credentials, "is no"),
        (_wrong_settings, "EVENTS_BACKFILL"),
    ],
)
def test_what_cannot_start_says_so_in_one_line(
    tmp_path: Path, fault: Callable[[Path], dict[str, str]], said: str
) -> None:
    env = settings(**fault(tmp_path))
    path = Path(env.get("EVENTS_DATABASE_PATH", tmp_path / "none"))
    before = path.read_bytes() if path.exists() else None
    service = EventService(tmp_path / "service", env)
    service.start(wait=False)
    try:
        assert service.wait_exit() == 3
        lines = [line for line in service.log_text().splitlines() if said in line]
        assert len(lines) == 1
        assert "BEGIN secret" not in service.log_text()
    finally:
        service.close()
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_port_in_use_ends_the_service(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        service = EventService(tmp_path / "service", settings(EVENTS_LISTEN_ADDRESS=address))
        service.start(wait=False)
        try:
            assert service.wait_exit() == 3
            assert [line for line in service.log_text().splitlines() if address in line]
        finally:
            service.close()
