"""A probe from its address to its report, at relays that behave and at those that do not."""

import socket
import threading
from dataclasses import replace
from time import time

import pytest

from pipeline.nostr.address import parse_address
from pipeline.nostr.kinds import DELETION, TEXT_NOTE
from pipeline.probe import collector, connections, interview
from pipeline.probe.interview import Pace
from pipeline.probe.known import ProbeQuestion
from pipeline.probe.observation import Observation
from pipeline.probe.probe import Progress, probe
from pipeline.probe.report import ProbeReport
from pipeline.process.clock import SystemClock
from pipeline.relay.dial import DialPolicy
from pipeline.relay.errors import DialError
from tests.factories.events import Author, SignedEvent
from tests.fakes.behaviour import STRFRY_WITHHOLDING, AuthDemand, Behaviour, How, RateLimit, Refusal
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Published
from tests.integration.relay.peers import TEXT, Peer, Script, accept_websocket, frame

# Long enough for whatever answers at all, however slow the machine is; what says nothing is not waited for.
PATIENT = Pace(patience_s=60.0, watch_s=0.0, pause_s=0.0, settle_s=0.0)
HASTY = Pace(patience_s=0.2, watch_s=0.0, timeout_s=20.0, pause_s=0.0, settle_s=0.0, rate_waits_s=(0.0,))
NOW = int(time())
PEOPLE = [Author.from_seed(11, number) for number in range(5)]


def events() -> list[SignedEvent]:
    return [
        PEOPLE[number % 5].sign(
            f"note {number}", kind=(1, 1, 7, 4)[number % 4], created_at=NOW - 1000 - 30 * number,
            tags=[("p", PEOPLE[(number + 1) % 5].pubkey), ("e", f"{number % 7:064x}")],
        )
        for number in range(80)
    ]  # fmt: skip


def probed(url: str, pace: Pace, *, writes: bool = False, on_question: Progress = lambda _: None) -> ProbeReport:
    policy = DialPolicy(allow_private=True)
    return probe(parse_address(url), policy, SystemClock(), writes=writes, pace=pace, on_question=on_question)


def by_name(report: ProbeReport) -> dict[str, Observation]:
    return {each.name: each for each in report.observations}


def test_scripted_relay_is_seen_as_it_is() -> None:
    behaviour = STRFRY_WITHHOLDING | Behaviour(cap=30, counts=True, negentropy=True, compression=True)
    with ScriptedRelay(behaviour, events=events()) as relay:
        report = probed(relay.url, PATIENT, writes=True)
    seen = by_name(report)
    values = {name: seen[name].value for name in EXPECTED}
    assert values == EXPECTED
    assert report.requests < 300
    assert all(each.value is not None for each in report.observations if each.section in ("live", "write", "form"))


EXPECTED = {
    "connection.nip11": "answered",
    "connection.compression": "agreed on",
    "page.everything": "answered",
    "page.order": "newest first",
    "page.limit_zero": "EOSE, no stored event",
    "border.since_author": "inclusive",
    "border.until_everything": "inclusive",
    "limit.page": 30,
    "limit.filters": 20,
    "limit.authors": 1_000,
    "limit.frame_bytes": 131_072,
    "limit.subscriptions": 20,
    "withheld.kind_4": "withheld silently",
    "subscription.open_id_serves": "the second alone",
    "live.note": "delivered",
    "live.limit_zero": "delivered",
    "live.dated_back": "delivered",
    "write.note": "accepted",
    "nip77.compares": "right",
    "nip11.max_subscriptions": "true",
    "nip11.max_limit": "takes less",
}


def test_without_writing_nothing_is_published() -> None:
    with ScriptedRelay(STRFRY_WITHHOLDING | Behaviour(until_exclusive=True), events=events()) as relay:
        seen = by_name(probed(relay.url, PATIENT))
        assert relay.journal.of(Published) == []
    assert seen["live.note"].value is None
    assert seen["border.until_author"].value == "exclusive"


def test_probe_that_is_interrupted_takes_back_what_it_published() -> None:
    def interrupt(question: ProbeQuestion) -> None:
        if question.names == ("live.limit_zero",):
            raise KeyboardInterrupt

    with ScriptedRelay(STRFRY_WITHHOLDING) as relay:
        with pytest.raises(KeyboardInterrupt):
            probed(relay.url, PATIENT, writes=True, on_question=interrupt)
        assert len(kept(relay)) == 7
        assert kept(relay) <= taken_back(relay)


def test_probe_that_may_ask_no_more_takes_back_what_it_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interview, "MAX_REQUESTS", 30)
    with ScriptedRelay(STRFRY_WITHHOLDING | Behaviour(auth=AuthDemand())) as relay:
        seen = by_name(probed(relay.url, PATIENT, writes=True))
        assert len(kept(relay)) == 6
        assert kept(relay) <= taken_back(relay)
    assert seen["write.deletion"].value is None


def kept(relay: ScriptedRelay) -> set[str]:
    """The notes that the relay has accepted."""
    return {each.event_id for each in relay.journal.of(Published) if each.accepted and each.kind == TEXT_NOTE}


def taken_back(relay: ScriptedRelay) -> set[str]:
    """The events that deletions name."""
    return {tag[1] for each in relay.stored() if each.kind == DELETION for tag in each.tags if tag[0] == "e"}


def test_relay_that_demands_auth_of_readers_is_seen_all_the_same() -> None:
    behaviour = STRFRY_WITHHOLDING | Behaviour(auth=AuthDemand())
    with ScriptedRelay(behaviour, events=events()) as relay:
        seen = by_name(probed(relay.url, PATIENT))
    assert seen["connection.auth"].value is True
    assert seen["page.order"].value == "newest first"
    assert seen["limit.filters"].value == 20


def test_relay_that_limits_the_rate_is_left_alone_in_the_end() -> None:
    refusal = Refusal(How.NOTICE, "rate limited")
    behaviour = STRFRY_WITHHOLDING | Behaviour(rate=RateLimit(per_s=0.0, burst=20, refusal=refusal))
    with ScriptedRelay(behaviour, events=events()) as relay:
        report = probed(relay.url, replace(PATIENT, rate_waits_s=(0.0, 0.0)))
    assert report.requests < 60
    seen = by_name(report)
    assert seen["page.order"].value == "newest first"
    assert "limits the rate" in seen["limit.authors"].note


def repeating(message: bytes) -> Script:
    """A websocket on which this comes over and over, as fast as it is read."""
    block = frame(TEXT, message) * max(1, 60_000 // len(message))

    def play(conn: socket.socket, over: threading.Event) -> None:
        accept_websocket(conn)
        while not over.is_set():
            conn.sendall(block)

    return play


def silent(conn: socket.socket, over: threading.Event) -> None:
    accept_websocket(conn)
    over.wait(60.0)


def closing(conn: socket.socket, _: threading.Event) -> None:
    accept_websocket(conn)


def note(subscription: str) -> bytes:
    return f'["EVENT","{subscription}",{PEOPLE[0].sign("x", created_at=NOW).raw}]'.encode()


@pytest.mark.parametrize(
    "script",
    [
        repeating(b'["NOTICE","rate limited"]'), repeating(note("q1")), repeating(note("other")),
        repeating(b"[" * 50_000), repeating(b'["AUTH","x"]'), silent, closing,
    ],
    ids=["notices", "events", "strangers", "nesting", "challenges", "silent", "closing"],
)  # fmt: skip
def test_hostile_relay_ends_in_a_report(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within its bounds of time, bytes and connections; what was not seen is unknown."""
    monkeypatch.setattr(connections, "MAX_BYTES", 4 << 20)
    monkeypatch.setattr(collector, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(connections, "MAX_DIALS", 10)
    with Peer(script) as peer:
        report = probed(peer.address.url, HASTY)
    seen = by_name(report)
    assert report.dials <= 10
    assert report.bytes_received < 8 << 20
    assert seen["limit.authors"].value is None
    assert seen["live.note"].value is None


def test_no_connection_is_an_error() -> None:
    with ScriptedRelay() as relay:
        url = relay.url
    with pytest.raises(DialError):
        probed(url, HASTY)
