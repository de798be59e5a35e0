"""A relay by its command line is started, killed and started again; events get to it whatever it does meanwhile."""

import json
import threading
from pathlib import Path

import pytest
from websockets.sync.server import ServerConnection, serve

from tests.factories.events import Author, SignedEvent
from tests.fakes.behaviour import Behaviour, How, Interruption
from tests.fakes.child import ChildFailed
from tests.fakes.command_relay import CommandRelay
from tests.fakes.net import free_port
from tests.fakes.publisher import PatientPublisher
from tests.fakes.relay import ScriptedRelay
from tests.integration.fakes.client import NaiveClient
from tests.tools.completeness.foreign.book import take_book
from tests.tools.completeness.foreign.subject import RelayCommand, Subject

FORGETFUL = "env PYTHONPATH={root} {python} -m tests.fakes.relay_process --addr {address} --port {port}"
LASTING = (
    "env PYTHONPATH={root} {python} -m tests.fakes.independent_relay --addr {address} --port {port} --lmdb {folder}/db"
)
ALICE = Author.from_seed(1, 1)


def notes(count: int) -> list[SignedEvent]:
    return [ALICE.sign(f"{number}", created_at=1_700_000_000 + number) for number in range(count)]


@pytest.mark.parametrize(("command", "forgotten"), [(FORGETFUL, 30), (LASTING, 0)], ids=["forgetful", "lasting"])
def test_killed_relay_holds_the_same_events_after_its_restart(command: str, forgotten: int, tmp_path: Path) -> None:
    events = notes(30)
    with Subject(RelayCommand("it", command), tmp_path / "relay") as subject:
        subject.load(events)
        assert subject.restart() == forgotten
        assert subject.book() == {event.id for event in events}


def test_relay_that_ended_by_itself_is_started_again_with_its_events(tmp_path: Path) -> None:
    events = notes(20)
    with Subject(RelayCommand("it", FORGETFUL), tmp_path / "relay") as subject:
        subject.load(events)
        subject.revive()
        assert subject.crashes == 0
        subject.child.kill()
        subject.revive()
        assert subject.crashes == 1
        assert subject.book() == {event.id for event in events}


def test_publisher_gives_up_on_a_relay_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fakes.publisher._BREATH_S", 0.0)
    with PatientPublisher(f"ws://127.0.0.1:{free_port()}") as publisher, pytest.raises(ConnectionRefusedError):
        publisher.publish(notes(20))


def test_command_that_ends_is_reported_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="no such flag"):
        CommandRelay("sh -c 'echo no such flag; exit 1'", tmp_path).start()


def test_proxy_counts_what_the_client_asked(tmp_path: Path) -> None:
    with Subject(RelayCommand("it", FORGETFUL), tmp_path / "relay", delay_s=0.05) as subject:
        subject.load(notes(5))
        before = subject.proxy.traffic
        held = {event.id for event in notes(5)}
        with NaiveClient(subject.url) as client:
            events, _ = client.page({"kinds": [1]})
        assert {event.id for event in events} == held
        spent = subject.proxy.traffic.since(before)
        assert spent.messages == {"REQ": 1}
        assert spent.received > 5 * 300
        assert 0 < spent.sent < spent.received


def drop(relay: ScriptedRelay) -> None:
    relay.drop()


def test_publisher_sends_what_a_lost_connection_left_unanswered_again() -> None:
    events = notes(60)
    with ScriptedRelay() as relay:
        with PatientPublisher(relay.url) as publisher:
            publisher.publish(events, lambda number: drop(relay) if number in (20, 40) else None)
        assert publisher.answers.accepted == {event.id for event in events}
        assert {event.id for event in relay.stored()} == publisher.answers.accepted


def test_book_has_only_what_is_given() -> None:
    events = notes(250)
    cut = Behaviour(cap=100, interruption=Interruption(20, How.RESET, times=2))
    with ScriptedRelay(cut, events=events[:230]) as relay:
        assert take_book(relay.url, [event.id for event in events]) == {event.id for event in events[:230]}


def confirm_each_close(connection: ServerConnection) -> None:
    """Answer as monstr does, which holds every event."""
    for frame in connection:
        match json.loads(frame):
            case ["REQ", name, {"ids": ids}]:
                for event_id in ids:
                    connection.send(json.dumps(["EVENT", name, {"id": event_id}]))
                connection.send(json.dumps(["EOSE", name]))
            case ["CLOSE", name]:
                connection.send(json.dumps(["NOTICE", f"CLOSE command for sub_id {name} - success"]))


def test_notice_about_an_earlier_request_is_no_refusal_of_the_next() -> None:
    ids = [event.id for event in notes(250)]
    with serve(confirm_each_close, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        host, port = server.socket.getsockname()
        assert take_book(f"ws://{host}:{port}", ids) == set(ids)
        server.shutdown()
        thread.join()
