"""The handle on the service, tried on a stand-in that has the service's face and none of its insides."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories.events import Author
from tests.fakes.child import ChildFailed
from tests.fakes.procs import session_members
from tests.fakes.service import EventService, settings

ALICE = Author.from_seed(2, 0)
STAND_IN = """
import http, json, os, signal, subprocess, sys, threading
from websockets.sync.server import serve

METRICS = 'received_events_counter{address="ws://a"} 2.0\\nreceived_events_counter{address="ws://b"} 3.0\\n'

def stage():
    sys.stdin.read()

def answer(connection, request):
    if request.headers.get("Upgrade"):
        return None
    body = {"/_health": '"ok"', "/metrics": METRICS, "/public-keys/ab": '{"followers": 1, "followees": 2}'}
    found = body.get(request.path)
    return connection.respond(http.HTTPStatus.OK if found else http.HTTPStatus.NOT_FOUND, found or "")

def take(connection):
    _, event = json.loads(connection.recv())
    ok = event["kind"] == 6666
    connection.send(json.dumps(["OK", event["id"], ok, "" if ok else "invalid: no registration"]))

def supervise():
    print(json.dumps(sorted(name for name in os.environ if name.startswith(("EVENTS_", "PUBSUB_")))), file=sys.stderr)
    if os.environ.get("EVENTS_BROKEN"):
        sys.exit(3)
    command = [sys.executable, __file__, "stage", "crawler", "--slot", "1", "--supervised"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0)
    host, _, port = os.environ["EVENTS_LISTEN_ADDRESS"].rpartition(":")
    with serve(take, host, int(port), process_request=answer) as server:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        server.serve_forever()
    child.stdin.close()
    child.wait()

stage() if sys.argv[1] == "stage" else supervise()
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[EventService]:
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    env = settings(relays=["ws://127.0.0.2:1"], pubsub="127.0.0.1:2", EVENTS_CRAWLERS="2")
    running = EventService(tmp_path / "data", env, command=(sys.executable, str(program)))
    yield running
    running.close()


def test_a_run_from_start_to_stop(service: EventService) -> None:
    """Healthy, its stages found, stopped in order; what it logged stays."""
    service.start()
    assert [(stage.name, stage.slot) for stage in service.stages()] == [("crawler", 1)]
    assert service.stages("saver") == []
    assert len(service.processes()) == 2
    assert service.stop() == 0
    assert not service.running
    for name in ("EVENTS_DATABASE_PATH", "EVENTS_CRAWLERS", "PUBSUB_EMULATOR_HOST", "EVENTS_SKIP_RELAYS"):
        assert name in service.log_text()


def test_its_face_is_read(service: EventService) -> None:
    service.start()
    assert service.register(ALICE, ["wss://relay.example"]) == (True, "")
    assert service.register(ALICE.sign(created_at=1)) == (False, "invalid: no registration")
    assert service.wait_metric("received_events_counter", lambda value: value >= 5) == 5
    assert service.wait_metric("received_events_counter", lambda value: value >= 3, address="ws://b") == 3
    assert service.public_key("ab") == {"followers": 1, "followees": 2}
    assert service.get("/nothing")[0] == 404


def test_what_does_not_become_healthy_tells_why(service: EventService) -> None:
    service.env["EVENTS_BROKEN"] = "1"
    with pytest.raises(ChildFailed, match="ended with 3"):
        service.start()
    service.start(wait=False)
    assert service.wait_exit() == 3


def test_stages_outlive_a_killed_supervisor_only_until_closed(service: EventService) -> None:
    """A test can look at orphans; none is left when the handle is closed."""
    service.start()
    session = service.child.pid
    orphans = service.stages()
    service.kill()
    service.close()
    assert orphans
    assert session_members(session) == []
    service.start()
    assert service.get("/_health") == (200, '"ok"')


def test_settings_keep_a_run_on_loopback() -> None:
    """Nothing is dialled or sent that the test did not name; an empty target and skip list mean none."""
    env = settings(relays=["ws://127.0.0.2:1", "ws://127.0.0.3:1"], EVENTS_BACKFILL="1h")
    assert env["EVENTS_BOOTSTRAP_RELAYS"] == "ws://127.0.0.2:1,ws://127.0.0.3:1"
    assert (env["EVENTS_TARGET_RELAY"], env["EVENTS_SKIP_RELAYS"], env["EVENTS_BACKFILL"]) == ("", "", "1h")
    assert "PUBSUB_EMULATOR_HOST" not in env
    assert settings(pubsub="127.0.0.1:9")["EVENTS_ENVIRONMENT"] == "PRODUCTION"
