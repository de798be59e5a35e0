"""A running service says what is wrong with it: which stage, since when, why; and is well again afterwards."""

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from time import time

import pytest

from tests.factories.events import SignedEvent, authors
from tests.fakes.procs import process
from tests.fakes.pubsub_process import PubSubProcess
from tests.fakes.pubsub_rules import Rule
from tests.fakes.relay import ScriptedRelay
from tests.fakes.service import EventService, settings
from tests.integration.operations.support import PATIENCE_S, complaint, logged, problems, until

AUTHORS = authors(9, 3)


def profiles() -> list[SignedEvent]:
    """As new as the crawl reaches back, whenever the test runs."""
    return [author.sign("{}", kind=0, created_at=int(time()) - 60) for author in AUTHORS]


@pytest.mark.long
def test_a_sink_that_refuses_us_is_named_with_what_to_do(tmp_path: Path) -> None:
    """And nothing is said any more once it takes events again."""
    rules = [Rule(status="PERMISSION_DENIED")]
    with ScriptedRelay(events=profiles()) as relay, PubSubProcess(rules=rules) as pubsub:
        env = settings(relays=[relay.url], pubsub=pubsub.address)
        with closing(EventService(tmp_path, env)) as service:
            service.start_ill()
            found = complaint(service, "forwarder-0", "sink pubsub is down: PERMISSION_DENIED")
            assert found["why"].endswith("pubsub.publisher") or "role" in found["why"].lower(), found
            assert abs(datetime.fromisoformat(found["since"]).timestamp() - time()) < PATIENCE_S
            pubsub.set_rules()
            pubsub.wait_count(len(AUTHORS), PATIENCE_S)
            until(lambda: problems(service) == [], lambda: problems(service))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_of_the_sink_is_named(tmp_path: Path) -> None:
    with ScriptedRelay(events=profiles()) as relay:
        env = settings(relays=[relay.url], EVENTS_SINK="jsonl:/dev/full")
        with closing(EventService(tmp_path, env)) as service:
            service.start_ill()
            found = complaint(service, "forwarder-0", "ENOSPC")
            assert found["why"] == "sink pubsub is down: ENOSPC: make room on its disk"
            assert service.stop() == 0


@pytest.mark.long
def test_a_stage_that_cannot_go_on_is_named_with_its_last_words(tmp_path: Path) -> None:
    """Its table is gone: it ends, is started again, ends; health tells why, the supervisor that it loops."""
    with EventService(tmp_path) as service:
        import apsw

        with apsw.Connection(str(service.database)) as database:
            database.execute("ALTER TABLE deliveries RENAME TO lost")
        found = complaint(service, "sweeper-0", "ended: ")
        assert "deliveries" in found["why"]
        complaint(service, "supervisor", "sweeper-0 is crash-looping")
        with apsw.Connection(str(service.database)) as database:
            database.execute("ALTER TABLE lost RENAME TO deliveries")
        # It takes a healthy minute to be forgiven; until then it is said.
        until(lambda: [each["stage"] for each in problems(service)] == ["supervisor"], lambda: problems(service))
        assert service.scrape().value("event_service_stage_exits_total", slot="sweeper-0", reason="exit") >= 3


@contextmanager
def killed(service: EventService, stage: str) -> Iterator[None]:
    """Kill a stage and hold its slot, without which the next process of it is not ready, until the block ends."""
    (victim,) = service.stages(stage)
    supervisor = service.child.pid
    with (service.directory / "run" / "slots" / f"{stage}-0.lock").open() as slot:
        os.kill(supervisor, signal.SIGSTOP)
        until(lambda: (found := process(supervisor)) is not None and found.state == "T", lambda: process(supervisor))
        os.kill(victim.pid, signal.SIGKILL)
        fcntl.flock(slot, fcntl.LOCK_EX)
        os.kill(supervisor, signal.SIGCONT)
        yield


def test_a_killed_stage_is_missed_until_it_is_back(tmp_path: Path) -> None:
    with EventService(tmp_path) as service:
        for _ in range(2):
            with killed(service, "saver"):
                complaint(service, "supervisor", "waiting for saver-0")
            until(lambda: problems(service) == [], lambda: problems(service))


@pytest.mark.long
def test_a_stage_that_hangs_is_named_killed_counted_and_logged(tmp_path: Path) -> None:
    """As a deadlock would look from outside; the others go on, and all is well again without a hand."""
    with EventService(tmp_path) as service:
        others = {one.pid for one in service.stages()}
        (saver,) = service.stages("saver")
        os.kill(saver.pid, signal.SIGSTOP)
        complaint(service, "saver-0", "")
        service.wait_metric("event_service_stage_exits_total", lambda value: value == 1, slot="saver-0", reason="hung")
        until(lambda: problems(service) == [], lambda: problems(service))
        now = {one.pid for one in service.stages()}
        assert others - now == {saver.pid}
        assert [line["stage"] for line in logged(service, "stage hangs, killing it")] == ["saver-0"]
