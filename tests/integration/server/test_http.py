"""The HTTP answers of the contract, over real sockets."""

import json
import os
import re
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.process.exposition import CONTENT_TYPE
from pipeline.process.heartbeat import Heartbeat
from pipeline.process.stage import HEARTBEAT_LIMIT_S
from pipeline.server.health import MIN_FREE_BYTES
from pipeline.settings.values import HostPort
from pipeline.store import authors, contacts
from pipeline.store.contacts import ContactList
from stages.server import listener
from tests.factories.events import authors as make_authors
from tests.fakes.child import Child
from tests.fakes.net import free_port
from tests.integration.server.harness import PATIENCE_S, Running, read_to_end, running, write_lock_held

ALICE, BOB, CAROL = (author.pubkey for author in make_authors(1, 3))


def follow(server: Running, follower: str, *followees: str) -> None:
    with server.database() as database, database.write() as tx:
        known = authors.Authors()
        numbers = frozenset(known.intern_all(tx, map(bytes.fromhex, followees)))
        event_id = bytes.fromhex(follower)
        contacts.replace(tx, ContactList(known.intern(tx, event_id), event_id, 1_700_000_000, numbers), 0)


def families(body: bytes) -> list[str]:
    return [line.split()[2] for line in body.decode().splitlines() if line.startswith("# TYPE ")]


def test_metrics_are_text_of_format_0_0_4(server: Running) -> None:
    answer = server.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert b"\n# TYPE application_handler_calls_total counter\n" in answer.body


def test_every_family_is_described_once_and_reads_back(server: Running) -> None:
    assert server.publish(make_authors(1, 1)[0].registration(1_700_000_000, ["wss://relay.example.com"]).raw)[2]
    text = server.get("/metrics").body.decode()
    described = families(text.encode())
    assert len(described) == len(set(described))
    read = {family.name: family for family in text_string_to_metric_families(text)}
    for name in (
        "relay_connection_state_gauge",
        "relay_connection_subscriptions_gauge",
        "relay_rate_limit_backoff_ms_gauge",
        "stored_relay_addresses_gauge",
        "subscription_queue_length",
        "subscription_queue_oldest_message_age",
        "event_service_queue_length",
        "event_service_queue_oldest_age_seconds",
        "event_service_dead_rows",
        "event_service_database_bytes",
        "event_service_wal_bytes",
        "event_service_disk_free_bytes",
        "event_service_public_keys",
        "event_service_registered_users",
    ):
        assert read[name].type == "gauge", name
    assert read["stored_relay_addresses_gauge"].samples[0].value == 1
    for name in ("event_service_database_bytes", "event_service_wal_bytes", "event_service_disk_free_bytes"):
        assert read[name].samples[0].value > 0, name


def test_metrics_take_no_other_format(server: Running) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    assert server.get("/metrics", {"Accept": accept}).headers["content-type"] == CONTENT_TYPE


def test_scrapes_at_once_all_get_an_answer(server: Running) -> None:
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda _: server.get("/metrics"), range(24)))
    assert {answer.status for answer in answers} == {200}
    assert len({tuple(families(answer.body)) for answer in answers}) == 1


def test_health_is_the_text_of_the_go_service(server: Running) -> None:
    answer = server.get("/_health")
    assert (answer.status, answer.body) == (200, b'"ok"')
    assert answer.headers["content-type"] == "application/json"


def test_health_names_the_stage_that_does_not_beat_yet(server: Running) -> None:
    heartbeat = Heartbeat(server.config.runtime_directory, "saver-0", server.clock)
    answer = server.get("/_health")
    assert answer.status == 503
    body = answer.json()
    assert (body["status"], body["database"]) == ("failing", "ok")
    states = {stage["slot"]: stage["state"] for stage in body["stages"]}
    assert states == {"server-0": "ok", "saver-0": "starting"}
    heartbeat.beat()
    assert server.get("/_health").status == 200
    heartbeat.close()


class Behind:
    """A clock that is some seconds late, as the heartbeat of a process that hangs is."""

    def __init__(self, running_clock: Running, seconds: float) -> None:
        self._clock = running_clock.clock
        self._seconds = seconds

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def monotonic(self) -> float:
        return self._clock.monotonic() - self._seconds


def test_health_tells_since_when_a_stage_hangs(server: Running) -> None:
    heartbeat = Heartbeat(server.config.runtime_directory, "saver-0", Behind(server, HEARTBEAT_LIMIT_S + 60))
    heartbeat.beat()
    answer = server.get("/_health")
    assert answer.status == 503
    (stage,) = [stage for stage in answer.json()["stages"] if stage["slot"] == "saver-0"]
    assert stage["state"] == "hung"
    silent_s = server.clock.now_ms() / 1000 - datetime.fromisoformat(stage["since"]).timestamp()
    assert HEARTBEAT_LIMIT_S + 59 < silent_s < HEARTBEAT_LIMIT_S + 60 + PATIENCE_S
    heartbeat.close()


WRITE_HEARTBEAT_AND_DIE = """
import os, sys
from pathlib import Path
from pipeline.process.clock import SystemClock
from pipeline.process.heartbeat import Heartbeat
Heartbeat(Path(sys.argv[1]), "saver-0", SystemClock()).beat()
os._exit(1)
"""


def problems(server: Running) -> list[dict[str, str]]:
    """What `/_health` complains of; empty when it answers as the Go service did."""
    answer = server.get("/_health")
    if answer.status == 200:
        assert answer.body == b'"ok"'
        return []
    assert answer.status == 503
    found: list[dict[str, str]] = answer.json()["problems"]
    return found


def test_dead_process_fails_health_unless_the_supervisor_dropped_it(server: Running) -> None:
    with Child([sys.executable, "-c", WRITE_HEARTBEAT_AND_DIE, str(server.config.runtime_directory)]) as child:
        assert child.wait(PATIENCE_S) == 1
    (problem,) = problems(server)
    assert (problem["stage"], problem["why"]) == ("saver-0", "exited without an error message")
    supervisor = Heartbeat(server.config.runtime_directory, "supervisor", server.clock)
    supervisor.beat()
    assert problems(server) == []
    supervisor.beat("waiting for saver-0")
    assert [(each["stage"], each["why"]) for each in problems(server)] == [
        ("saver-0", "exited without an error message"),
        ("supervisor", "waiting for saver-0"),
    ]
    supervisor.close()


def test_health_tells_what_a_stage_complains_of_and_since_when(server: Running) -> None:
    heartbeat = Heartbeat(server.config.runtime_directory, "forwarder-0", Behind(server, 5))
    heartbeat.beat("sink pubsub is down: UNAUTHENTICATED: renew the key")
    (problem,) = problems(server)
    assert (problem["stage"], problem["why"]) == (
        "forwarder-0",
        "sink pubsub is down: UNAUTHENTICATED: renew the key",
    )
    since_s = server.clock.now_ms() / 1000 - datetime.fromisoformat(problem["since"]).timestamp()
    assert 4 < since_s < 5 + PATIENCE_S
    heartbeat.close()


def verdicts(server: Running) -> dict[str, int]:
    return {path: server.get(path).status for path in ("/_health", "/_live", "/_ready")}


def test_liveness_falls_only_where_a_restart_helps(server: Running) -> None:
    """Not with Google, and not for a stage that the supervisor restarts by itself."""
    directory, clock = server.config.runtime_directory, server.clock
    assert verdicts(server) == {"/_health": 200, "/_live": 200, "/_ready": 200}
    forwarder = Heartbeat(directory, "forwarder-0", clock)
    assert verdicts(server) == {"/_health": 503, "/_live": 200, "/_ready": 503}, "it starts"
    forwarder.beat("sink pubsub is down: UNAVAILABLE")
    assert verdicts(server) == {"/_health": 503, "/_live": 200, "/_ready": 200}, "its sink is down"
    saver = Heartbeat(directory, "saver-0", Behind(server, HEARTBEAT_LIMIT_S))
    saver.beat()
    assert verdicts(server) == {"/_health": 503, "/_live": 200, "/_ready": 503}, "the supervisor kills what hangs"
    saver.close()
    supervisor = Heartbeat(directory, "supervisor", Behind(server, HEARTBEAT_LIMIT_S))
    supervisor.beat()
    assert verdicts(server) == {"/_health": 503, "/_live": 503, "/_ready": 503}, "nobody watches the stages"
    (problem,) = server.get("/_live").json()["problems"]
    assert problem["stage"] == "supervisor"
    assert "has sent no heartbeat for" in problem["why"]
    supervisor.close()
    forwarder.close()


AGED_MS = 20 * 60_000


def queue(server: Running, received_at: int, *, failures: int = 0) -> None:
    """Put an event into the outbox of the JSONL file that nobody delivers."""
    with server.database() as database, database.write() as tx:
        tx.execute(
            "INSERT INTO events (event, event_id, relay, received_at, sinks) VALUES (?1, ?2, 1, ?1, 1)",
            (received_at, received_at.to_bytes(32, "big")),
        )
        tx.execute(
            "INSERT INTO outbox (event, sink, ready_at, failures) VALUES (?, 'pubsub', 0, ?)", (received_at, failures)
        )


def test_health_fails_when_a_queue_stands_still(server: Running) -> None:
    now = server.clock.now_ms()
    # What failed has its next try put off, and says nothing of the others.
    queue(server, now - 10 * AGED_MS, failures=3)
    assert problems(server) == []
    queue(server, now - AGED_MS)
    (problem,) = problems(server)
    assert problem["stage"] == "forwarder"
    assert re.fullmatch(r"an event waits for 12\d\d s, EVENTS_MAX_QUEUE_AGE is 900 s", problem["why"])
    # It is late since 5 minutes ago.
    late_s = server.clock.now_ms() / 1000 - datetime.fromisoformat(problem["since"]).timestamp()
    assert 299 < late_s < 301 + PATIENCE_S


def test_no_queue_is_too_old_without_a_bound(tmp_path: Path) -> None:
    with running(tmp_path, EVENTS_MAX_QUEUE_AGE="0") as server:
        queue(server, server.clock.now_ms() - AGED_MS)
        assert problems(server) == []


def test_a_sink_that_is_off_has_no_queue(tmp_path: Path) -> None:
    with running(tmp_path, EVENTS_SINK="none") as server:
        queue(server, server.clock.now_ms() - AGED_MS)
        assert problems(server) == []


def test_health_fails_when_the_disk_is_full(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one thing here that cannot be made to happen for real."""
    full = os.statvfs_result((4096, 4096, 1 << 20, 1 << 14, (MIN_FREE_BYTES >> 12) - 1, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    first = problems(server)
    assert [(each["stage"], each["why"]) for each in first] == [
        ("disk", "disk is full: 63 MiB left beside the database")
    ]
    assert problems(server) == first
    monkeypatch.undo()
    assert problems(server) == []


def test_the_version_is_shown(server: Running) -> None:
    (name,) = [name for name in server.samples() if name.startswith("version{")]
    assert re.fullmatch(r'version\{go="python3\.\d+\.\d+\S*",vcsRevision="\w+",vcsTime="[^"]+"\}', name)


def test_health_fails_when_the_database_cannot_be_read(server: Running) -> None:
    with server.database() as database, database.write() as tx:
        tx.execute("DROP TABLE generations")
    answer = server.get("/_health")
    assert answer.status == 503
    assert "generations" in answer.json()["database"]


def test_metrics_of_processes_are_served_even_without_the_database(server: Running) -> None:
    with server.database() as database, database.write() as tx:
        tx.execute("DROP TABLE relays")
    samples = server.samples()
    assert "stored_relay_addresses_gauge" not in samples
    assert 'process_threads{slot="server-0"}' in samples
    assert server.samples()['event_service_stage_errors_total{kind="metrics",stage="server"}'] >= 1


@pytest.mark.parametrize("spell", [str.lower, str.upper], ids=["lower", "upper"])
def test_public_key_counts_in_either_case(server: Running, spell: Callable[[str], str]) -> None:
    follow(server, ALICE, BOB, CAROL)
    follow(server, BOB, CAROL)
    answers = [server.get(f"/public-keys/{spell(key)}") for key in (ALICE, BOB, CAROL)]
    assert [answer.status for answer in answers] == [200] * 3
    assert {answer.headers["content-type"] for answer in answers} == {"application/json"}
    assert [answer.json() for answer in answers] == [
        {"followers": 0, "followees": 2},
        {"followers": 1, "followees": 1},
        {"followers": 2, "followees": 0},
    ]
    calls = 'application_handler_calls_total{handlerName="getPublicKeyInfo",result="success"}'
    assert server.samples()[calls] == 3


def test_a_public_key_that_nobody_knows_has_zeros(server: Running) -> None:
    assert server.get(f"/public-keys/{ALICE}").json() == {"followers": 0, "followees": 0}


@pytest.mark.parametrize(
    "key", ["x", "0" * 63, "0" * 65, "g" * 64, "0x" + "0" * 62, "npub1" + "q" * 58, "0" * 63 + "%20", "%30" * 64]
)
def test_a_bad_public_key_gets_the_exact_body(server: Running, key: str) -> None:
    answer = server.get(f"/public-keys/{key}")
    assert answer.status == 400
    assert answer.body == b'{"statusCode":400,"message":"invalid hex public key"}'
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "path", ["/metricsx", "/metrics/", "/_health/", "/public-keys", "/public-keys/", f"/public-keys/{ALICE}/x", "//"]
)
def test_other_paths_are_not_found(server: Running, path: str) -> None:
    assert server.get(path).status == 404


def test_a_query_changes_nothing(server: Running) -> None:
    assert server.get("/_health?verbose=1").body == b'"ok"'
    assert server.get(f"/public-keys/{ALICE}?x").status == 200


@pytest.mark.parametrize("path", ["/metrics", "/_health", f"/public-keys/{ALICE}", "/public-keys/x", "/nothing"])
def test_head_is_get_without_the_body(server: Running, path: str) -> None:
    head, get = server.request("HEAD", path), server.get(path)
    assert (head.status, head.body) == (get.status, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(server: Running, method: str) -> None:
    answer = server.request(method, "/metrics")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_the_root_says_what_there_is_to_whoever_wants_no_websocket(server: Running) -> None:
    answer = server.get("/")
    assert answer.status == 200
    assert b"kind 6666" in answer.body


def test_an_http_1_0_probe_is_answered(server: Running) -> None:
    with server.socket() as connection:
        connection.sendall(b"GET /_health HTTP/1.0\r\n\r\n")
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b'"ok"'


MALFORMED = [
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\nHost: x\n\n",
    b"POST /_health HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /_health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\n",
    b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 99\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nX-Forwarded-For: a\r\nX-Forwarded-For: b\r\n\r\n",
    b"GET /%00%0d%0a HTTP/1.1\r\n\r\n",
]


@pytest.mark.parametrize("request_bytes", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_requests_get_an_answer_or_an_end(server: Running, request_bytes: bytes) -> None:
    with server.socket() as connection:
        connection.sendall(request_bytes)
        answer = read_to_end(connection)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert server.get("/_health").status == 200


def test_an_empty_host_listens_on_every_address_of_both_kinds() -> None:
    with listener(HostPort("", free_port())) as sock:
        everywhere, port, *_ = sock.getsockname()
        assert everywhere == ("::" if socket.has_dualstack_ipv6() else "0.0.0.0")
        for host in ("127.0.0.1", "127.9.9.9"):
            with socket.create_connection((host, port), timeout=PATIENCE_S) as client:
                assert client.getpeername()[1] == port


def test_requests_are_answered_while_a_writer_holds_the_database(server: Running) -> None:
    """Nothing that only reads waits for another process's transaction, however long that takes."""
    with write_lock_held(server):
        assert server.get("/_health").status == 200
        assert server.get("/metrics").status == 200
        assert server.get(f"/public-keys/{ALICE}").status == 200


def test_metrics_are_complete_after_a_restart(tmp_path: Path) -> None:
    """A restarted server counts on where it was."""
    name = 'application_handler_calls_total{handlerName="getPublicKeyInfo",result="success"}'
    for count in (1, 2):
        with running(tmp_path) as server:
            assert json.loads(server.get(f"/public-keys/{ALICE}").body) == {"followers": 0, "followees": 0}
            assert server.samples()[name] == count
