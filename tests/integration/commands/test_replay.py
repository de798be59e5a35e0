"""`event-service replay`: what the sink was given in a span of time is queued once more, and nothing else."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from time import time
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.audit.client import MAX_CONNECTIONS
from pipeline.audit.policy import policy_of
from pipeline.cli import main
from pipeline.nostr.event import event_from_json
from pipeline.process.clock import Clock, ManualClock, SystemClock
from pipeline.process.locks import FileLock, locks_directory
from pipeline.process.logs import get_logger
from pipeline.process.stop import Stop
from pipeline.replay.fetcher import Fetcher, FetchPolicy, _IdSearch
from pipeline.replay.replay import MAX_PENDING, ReplayRun, Watcher
from pipeline.settings.config import Config
from pipeline.store import contacts, events, payloads, relay_records, relay_status, relays, replay_queue, replays, users
from pipeline.store.authors import Authors
from pipeline.store.contacts import ContactList
from pipeline.store.database import Database, Row
from pipeline.store.events import Accepted
from pipeline.store.relay_status import RelayState, RelayStatus
from pipeline.store.replay_queue import ReplayOutcome, ReplayRow
from pipeline.store.replays import Replay, ReplayScope
from pipeline.store.schema import open_database
from pipeline.store.sinks import SinkName, enroll
from tests.factories.events import SignedEvent, authors
from tests.fakes.behaviour import Behaviour, Order, Refusal
from tests.fakes.net import free_port, loopback_address
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Connected, Req
from tests.fakes.service import settings
from tests.integration.commands.operator import Operator
from tests.integration.delivery.support import wait_until

ALICE, BOB, STRANGER = authors(268, 3)
NOW = int(time())
DELIVERED_AT = NOW - 3_600
CLOCK = SystemClock()


def notes(count: int, first: int = 0) -> list[SignedEvent]:
    """What a followee wrote, at times that have nothing to do with when it was delivered."""
    return [BOB.sign(f"b{n}", kind=1, created_at=NOW - 90 * 86_400 + n) for n in range(first, first + count)]


class Delivered:
    """The database of a service that has delivered: a user who follows another, and what the sink was given."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.db"
        self.env = os.environ | settings(EVENTS_DATABASE_PATH=str(self.path), EVENTS_SINK=f"jsonl:{folder}/sink")
        self._number = 1_000
        with open_database(self.path, CLOCK) as database, database.write() as tx:
            known = Authors()
            users.register(tx, bytes.fromhex(ALICE.pubkey), NOW * 1000)
            alice, bob = (known.intern(tx, bytes.fromhex(each.pubkey)) for each in (ALICE, BOB))
            contacts.replace(tx, ContactList(alice, b"c" * 32, NOW - 10**6, [bob]), NOW * 1000)

    def crawl(self, addresses: Iterable[str]) -> None:
        """Let the relays be known as connected."""
        with open_database(self.path, CLOCK) as database, database.write() as tx:
            relays.set_bootstrap(tx, addresses, 1)
            for address in addresses:
                number = relays.find(tx, address)
                assert number is not None
                relay_status.start_crawling(tx, [number], 1)
                status = RelayStatus(number, address, RelayState.CONNECTED, 1, 1, 0, 0, 0, "")
                relay_status.put_statuses(tx, [status])

    def put(
        self, given: Sequence[SignedEvent], *, kept: bool = True, at: int = DELIVERED_AT, sink: str = "pubsub",
        outcome: str = "delivered", rules: str = "followee",
    ) -> None:  # fmt: skip
        """Let the sink have had events, whose payloads are kept or not."""
        with open_database(self.path, CLOCK) as database, database.write() as tx:
            known, rows = Authors(), list[Accepted]()
            for each in given:
                self._number += 1
                rows.append(
                    Accepted(
                        self._number, bytes.fromhex(each.id), each.created_at, each.kind,
                        known.intern(tx, bytes.fromhex(each.pubkey)), event_from_json(each.raw.encode()).to_json(), 1,
                        at * 1000, 1, rules=rules,
                    )
                )  # fmt: skip
            events.accept(tx, rows, at * 1000)
            if kept:
                payloads.put(tx, ((row.event, row.payload) for row in rows))
                events.store(tx, rows)
            record = "INSERT INTO deliveries (event, sink, outcome, at) VALUES (?, ?, ?, ?)"
            tx.executemany(record, ((row.event, sink, outcome, at * 1000) for row in rows))

    def invoke(self, *arguments: str) -> Result:
        done = CliRunner().invoke(main, ["replay", "--rate", "10000", *arguments], env=self.env)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    def run(self, *arguments: str) -> dict[str, Any]:
        done = self.invoke("--json", *(arguments or ("--since", "2h")))
        assert done.stdout, done.stderr
        value: dict[str, Any] = json.loads(done.stdout)
        if "missing" in value:
            assert done.exit_code == (1 if value["missing"] or value["refused"] else 0)
        return value

    def query(self, statement: str) -> list[Row]:
        with open_database(self.path, CLOCK) as database, database.read() as tx:
            return tx.execute(statement).fetchall()

    def queued(self) -> list[str]:
        """Ids of the events in the queue, in its order."""
        rows = self.query("SELECT event_id FROM replay_queue JOIN events USING (event) JOIN payloads USING (event)")
        return [event_id.hex() for (event_id,) in rows]

    def take(self, sink: str = "pubsub") -> list[str]:
        """Deliver what is queued, as the forwarder does; return the ids."""
        with open_database(self.path, CLOCK) as database, database.write() as tx:
            rows = replay_queue.claim(tx, sink, now=CLOCK.now_ms(), lease=1, limit=10**6, holder=None)
            replay_queue.settle(tx, ((row, ReplayOutcome.DELIVERED) for row in rows))
        return [payload_id(each) for each in rows]


def payload_id(each: ReplayRow) -> str:
    event = event_from_json(each.row.payload)
    assert event.id == each.row.event_id
    return event.id.hex()


@pytest.fixture
def delivered(tmp_path: Path) -> Delivered:
    return Delivered(tmp_path)


def ids(given: Iterable[SignedEvent]) -> list[str]:
    return sorted(each.id for each in given)


def test_what_is_kept_and_what_relays_return_is_queued(delivered: Delivered) -> None:
    kept, gone = notes(30), notes(70, first=30)
    delivered.put(kept)
    delivered.put(gone, kept=False)
    mention = BOB.sign("hi", kind=1, created_at=NOW - 9_000, tags=[("p", ALICE.pubkey)])
    delivered.put([mention], kept=False)
    with ScriptedRelay(Behaviour(cap=20), events=[*gone[:50], mention]) as first, ScriptedRelay(events=gone) as second:
        delivered.crawl([first.url, second.url])
        found = delivered.run()
        assert all(len(req.filters[0]["ids"]) <= 100 for relay in (first, second) for req in relay.journal.of(Req))
    assert {name: found[name] for name in ("total", "kept", "fetched", "missing", "pending", "problems")} == {
        "total": 101, "kept": 30, "fetched": 71, "missing": 0, "pending": 101, "problems": {},
    }  # fmt: skip
    assert sorted(delivered.queued()) == ids([*kept, *gone, mention])
    with open_database(delivered.path, CLOCK) as database, database.write() as tx:
        rows = replay_queue.claim(tx, "pubsub", now=CLOCK.now_ms(), lease=1, limit=1_000, holder=None)
    of_mention = next(each.row for each in rows if each.row.event_id.hex() == mention.id)
    assert (of_mention.rules, of_mention.mentions) == ("followee mention", bytes.fromhex(ALICE.pubkey))
    assert (of_mention.received_at, of_mention.address, of_mention.is_replay) == (DELIVERED_AT * 1000, None, True)


def test_span_is_that_of_the_first_delivery_to_the_sink(delivered: Delivered) -> None:
    signed = notes(8)
    for each, at in zip(signed, (-1, 0, 1, 2), strict=False):
        delivered.put([each], at=DELIVERED_AT + at)
    delivered.put(signed[4:5], outcome="refused: invalid")
    delivered.put(signed[5:6], outcome="dropped")
    delivered.put(signed[6:7], sink="relay")
    found = delivered.run("--since", str(DELIVERED_AT), "--until", str(DELIVERED_AT + 1))
    assert sorted(delivered.queued()) == ids(signed[1:3])
    assert found["total"] == 2


def test_authors_and_rules_narrow_it_down(delivered: Delivered) -> None:
    def of(author: Any, text: str, *, kind: int = 1, to: str = "") -> SignedEvent:
        signed: SignedEvent = author.sign(text, kind=kind, created_at=NOW - 9_000, tags=[("p", to)] if to else [])
        return signed

    noted, of_followee = of(STRANGER, "noted", to=ALICE.pubkey), of(BOB, "followee")
    delivered.put([noted], rules="mention")
    delivered.put([of_followee], rules="followee")
    mention, other = of(STRANGER, "mention", to=ALICE.pubkey), of(STRANGER, "was followed")
    profile, of_user = of(STRANGER, "{}", kind=0), of(ALICE, "user")
    gone = [mention, other, profile, of_user]
    delivered.put(gone, kept=False)
    expected = {
        ("mention",): ({noted, mention}, 3, 6),
        ("followee",): ({of_followee}, 1, 2),
        ("user",): ({of_user}, 0, 1),
        ("global",): ({profile}, 0, 1),
        ("user", "followee"): ({of_followee, of_user}, 0, 2),
    }
    with ScriptedRelay(events=gone) as relay:
        delivered.crawl([relay.url])
        for rules, (selected, other_rule, _) in expected.items():
            options = [option for rule in rules for option in ("--rule", rule)]
            found = delivered.run("--since", "2h", *options)
            assert sorted(delivered.take()) == ids(selected), rules
            assert found["other_rule"] == other_rule, rules
            # What was fetched is kept no longer than any other.
            with open_database(delivered.path, CLOCK) as database, database.write() as tx:
                numbers = [
                    int(event or 0) for (event,) in tx.execute("SELECT event FROM events WHERE relay = 0").fetchall()
                ]
                events.drop(tx, numbers)
        assert delivered.run("--since", "2h", "--author", BOB.pubkey)["total"] == 1
        assert delivered.take() == [of_followee.id]


def test_dry_run_says_how_many_from_where_and_queues_nothing(delivered: Delivered) -> None:
    delivered.put(notes(3))
    delivered.put(notes(4, first=3), kept=False)
    delivered.crawl(["ws://127.0.0.1:1"])
    found = delivered.run("--since", "2h", "--dry-run")
    assert (found["total"], found["kept"], found["to_fetch"]) == (7, 3, 4)
    assert found["relays"] == ["ws://127.0.0.1:1"]
    text = delivered.invoke("--since", "2h", "--dry-run").stdout
    assert "7 events: 3 kept, 4 to be fetched from relays (1 relay would be asked)" in text
    assert not delivered.queued()
    assert delivered.query("SELECT id FROM replays") == []


def test_events_that_no_relay_returns_are_counted_and_listed(delivered: Delivered) -> None:
    gone = notes(6)
    forged = replace(gone[0], sig="0" * 128, raw=gone[0].raw.replace(gone[0].sig, "0" * 128))
    profile = BOB.sign("{}", kind=0, created_at=NOW - 9_000)
    delivered.put([*gone, profile], kept=False)
    with ScriptedRelay(events=[forged, *gone[2:]]) as relay:
        delivered.crawl([relay.url])
        done = delivered.invoke("--since", "2h")
        assert done.exit_code == 1
        assert "3 events found at none of 1 relay (1 of kinds that relays do not keep for good)" in done.stdout
        assert sorted(delivered.take()) == ids(gone[2:])
        found = delivered.run()
    assert sorted(each["id"] for each in found["missing_events"]) == ids([*gone[:2], profile])
    assert found["kept"] == 4, "still kept from the one before"


def test_retracted_events_are_not_asked_for(delivered: Delivered) -> None:
    gone = notes(2)
    delivered.put(gone, kept=False)
    with open_database(delivered.path, CLOCK) as database, database.write() as tx:
        bob = Authors().intern(tx, bytes.fromhex(BOB.pubkey))
        tx.execute("INSERT INTO deletions (event_id, author, at) VALUES (?, ?, 1)", (bytes.fromhex(gone[0].id), bob))
    with ScriptedRelay(events=gone) as relay:
        delivered.crawl([relay.url])
        found = delivered.run()
        assert [req.filters[0]["ids"] for req in relay.journal.of(Req)] == [[gone[1].id]]
    assert (found["retracted"], found["missing"], found["fetched"]) == (1, 0, 1)


def names_more_than(most: int) -> Callable[[Sequence[Mapping[str, Any]]], bool]:
    return lambda filters: any(len(each.get("ids", ())) > most for each in filters)


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(
            refusals=(
                Refusal(reason='invalid: must be less than or equal to 7 ids at "[2].ids"', when=names_more_than(7)),
            )
        ),
        Behaviour(refusals=(Refusal(reason="error: too many ids", when=names_more_than(30)),)),
        Behaviour(refusals=(Refusal(reason="restricted: filter not accepted", when=names_more_than(10)),)),
        Behaviour(closes_ids=True),
        Behaviour(cap=7, order=Order.SHUFFLED),
    ],
    ids=["says its bound", "refuses many", "refuses for good", "closes each", "caps silently"],
)
def test_relay_is_asked_as_it_can_be_asked(delivered: Delivered, behaviour: Behaviour) -> None:
    gone = notes(60)
    delivered.put(gone, kept=False)
    with ScriptedRelay(behaviour, events=gone) as relay:
        delivered.crawl([relay.url])
        found = delivered.run()
        assert len(relay.journal.of(Req)) < 40
    assert (found["fetched"], found["missing"], found["problems"]) == (len(gone), 0, {})


def test_relays_that_cannot_be_asked_are_named(delivered: Delivered) -> None:
    gone = notes(5)
    delivered.put(gone, kept=False)
    refusing = Behaviour(refusals=(Refusal(reason="restricted: members only"),))
    away = f"ws://{(host := loopback_address())}:{free_port(host)}"
    with ScriptedRelay(refusing, events=gone) as relay, ScriptedRelay() as other:
        delivered.crawl([relay.url, away])
        done = delivered.invoke("--since", "2h")
        assert done.exit_code == 1
        assert "no relay could be asked" in done.stderr
        assert delivered.query("SELECT missing FROM replays") == [(0,)], "they may have everything"
        delivered.crawl([other.url])
        found = delivered.run("--resume")
    assert found["missing"] == 5
    assert found["problems"][relay.url] == "restricted: restricted: members only"
    assert "refused" in found["problems"][away]


def test_rows_that_an_earlier_replay_left_pending_count_for_the_newest(delivered: Delivered) -> None:
    """No forwarder took them, and the operator asks again for more."""
    signed = notes(5)
    delivered.put(signed[:3])
    assert delivered.run()["pending"] == 3
    delivered.put(signed[3:])
    found = delivered.run()
    assert (found["total"], found["pending"]) == (5, 5)
    assert sorted(delivered.take()) == ids(signed)
    assert delivered.query("SELECT delivered FROM replays ORDER BY id DESC LIMIT 1") == [(5,)]


def test_replay_that_was_killed_goes_on_and_repeats_nothing(delivered: Delivered, tmp_path: Path) -> None:
    """By SIGKILL, while it waits since no more may be pending."""
    signed = notes(MAX_PENDING + 400)
    delivered.put(signed)
    operator = Operator(delivered.path)
    command = operator.command("replay", "--since", "2h", "--rate", "10000")
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(command, env=delivered.env, stderr=said, stdout=said)
        try:
            wait_until(
                lambda: (
                    b"no forwarder of sink pubsub runs: 1,000 events wait for it" in (tmp_path / "said").read_bytes()
                )
            )
            assert "another event-service replay runs" in delivered.invoke("--resume").stderr
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    first = delivered.take()
    assert len(first) == MAX_PENDING
    assert "--resume goes on with it" in delivered.invoke("--since", "2h").stderr
    assert "if none runs, event-service replay --resume goes on" in status(delivered)
    found = delivered.run("--resume")
    rest = delivered.take()
    assert sorted(first + rest) == ids(signed)
    assert (found["kept"], found["total"], found["pending"]) == (len(signed), len(signed), 400)
    assert "no replay was interrupted" in delivered.invoke("--resume").stderr
    assert "events queued" not in status(delivered)


def status(delivered: Delivered) -> str:
    return CliRunner().invoke(main, ["status"], env=delivered.env).stdout


def begin(database: Database, total: int) -> Replay:
    with database.write() as tx:
        return replays.add(tx, ReplayScope(SinkName.PUBSUB, 0, NOW * 1000), total, NOW * 1000)


def test_replay_that_ended_between_two_pages_asks_for_the_rest_only(delivered: Delivered) -> None:
    gone = notes(250)
    delivered.put(gone, kept=False)
    with ScriptedRelay(events=gone) as relay, open_database(delivered.path, CLOCK) as database:
        delivered.crawl([relay.url])
        with database.read() as tx:
            records = relay_records.records(tx, everything=False, limit=9)
        policy = policy_of(Config.from_env(delivered.env, runs=False), rate=100)

        def interrupt() -> None:
            raise KeyboardInterrupt

        watcher = Watcher(lambda _: None, interrupt, lambda _: None)
        fetcher = Fetcher(records, FetchPolicy(policy.ask, policy.limits), CLOCK, Stop())
        one = ReplayRun(database, begin(database, len(gone)), fetcher, 10_000, CLOCK, Stop(), watcher)
        with pytest.raises(KeyboardInterrupt):
            one.run()
        first = delivered.queued()
        assert 0 < len(first) <= 100
        asked = len(relay.journal.of(Req))
        found = delivered.run("--resume")
        later = [event_id for req in relay.journal.of(Req)[asked:] for event_id in req.filters[0]["ids"]]
    assert set(later).isdisjoint(first)
    assert found["fetched"] == len(gone)
    assert sorted(delivered.queued()) == ids(gone)


def run_of(delivered: Delivered, database: Database, total: int, rate: float, stop: Stop, clock: Clock) -> ReplayRun:
    """A replay of everything that is ready to run."""
    with database.read() as tx:
        records = relay_records.records(tx, everything=False, limit=9)
    policy = policy_of(Config.from_env(delivered.env, runs=False), rate=100)
    fetcher = Fetcher(records, FetchPolicy(policy.ask, policy.limits), CLOCK, stop)
    watcher = Watcher(lambda _: None, lambda: None, lambda _: None)
    return ReplayRun(database, begin(database, total), fetcher, rate, clock, stop, watcher)


class Elapsing(Stop):
    """Each wait is over at once, and as if its time had passed."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self.clock = clock

    def wait(self, timeout_s: float | None = None) -> bool:
        self.clock.advance(timeout_s or 0.0)
        return self.is_set()


@pytest.mark.parametrize("rate", [0.5, 20.0, 333.0])
def test_no_more_are_queued_than_the_rate_allows(delivered: Delivered, rate: float) -> None:
    signed = notes(150)
    delivered.put(signed)
    clock = ManualClock(now_ms=NOW * 1000)
    with open_database(delivered.path, CLOCK) as database:
        began = clock.monotonic()
        run_of(delivered, database, len(signed), rate, Elapsing(clock), clock).run()
        took_s = clock.monotonic() - began
    at_once = max(1.0, 0.4 * rate)
    assert (len(signed) - at_once) / rate - 0.2 <= took_s <= 1.1 * len(signed) / rate
    assert sorted(delivered.queued()) == ids(signed)


def test_relay_that_waited_for_the_queue_is_dialled_again(
    delivered: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More often than a relay may lose the connection by itself."""
    gone = notes(100 * (MAX_CONNECTIONS + 2))
    delivered.put(gone, kept=False)
    waits = cycle([0.0, 3_600.0])
    monkeypatch.setattr(_IdSearch, "wait_for_room", lambda *_: next(waits))
    with ScriptedRelay(events=gone) as relay, open_database(delivered.path, CLOCK) as database:
        delivered.crawl([relay.url])
        one = run_of(delivered, database, len(gone), 10_000, Stop(), CLOCK)
        one.run()
        assert len(relay.journal.of(Connected)) > MAX_CONNECTIONS
    assert (one.replay.from_relays, one.replay.missing) == (len(gone), 0)


def test_cancelled_replay_leaves_nothing_queued(delivered: Delivered) -> None:
    delivered.put(notes(3))
    delivered.put(notes(2, first=3), kept=False)
    assert delivered.invoke("--since", "2h").exit_code == 1, "no relay was connected"
    assert len(delivered.queued()) == 3
    assert "3 queued events dropped" in delivered.invoke("--cancel").stdout
    assert delivered.queued() == []
    assert delivered.query("SELECT * FROM replay_fetches") == []
    assert "no replay to be cancelled" in delivered.invoke("--cancel").stderr
    assert delivered.run("--since", "2h", "--author", ALICE.pubkey)["total"] == 0
    assert delivered.query("SELECT count(*) FROM replays") == [(1,)], "those before are forgotten"


def test_replay_whose_rows_no_forwarder_takes_can_be_cancelled(delivered: Delivered) -> None:
    delivered.put(notes(3))
    assert delivered.run()["pending"] == 3
    assert "3 queued events dropped" in delivered.invoke("--cancel").stdout
    assert delivered.queued() == []


def test_fetched_event_that_no_rule_matches_today_is_not_delivered(delivered: Delivered) -> None:
    """Its author is not followed any more, or was a user who is forgotten."""
    left = STRANGER.sign("was followed", kind=1, created_at=NOW - 9_000)
    delivered.put([left], kept=False)
    with ScriptedRelay(events=[left]) as relay:
        delivered.crawl([relay.url])
        found = delivered.run()
    assert (found["other_rule"], found["fetched"], found["missing"]) == (1, 0, 0)
    assert delivered.queued() == []
    assert delivered.query("SELECT * FROM payloads") == []


def test_payload_that_is_dropped_before_it_is_queued_is_fetched(delivered: Delivered) -> None:
    """Retention comes between the look at it and the commit."""
    (signed,) = notes(1)
    delivered.put([signed])
    with open_database(delivered.path, CLOCK) as database:
        one = begin(database, 1)
        with database.read() as tx:
            step = replays.look(tx, one.scope, one.place, 10)
        assert [each.is_kept for each in step.found] == [True]
        with database.write() as tx:
            events.drop(tx, [each.event for each in step.found])
            replays.queue_up(tx, one, step.found, step.place, NOW, is_last=True)
            assert [each.event_id.hex() for each in replays.fetches(tx, one.job, 9)] == [signed.id]
            newest = replays.latest(tx)
        assert newest is not None
        assert (newest.from_store, newest.is_walked) == (0, True)
    assert delivered.queued() == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "--since is needed"),
        (("--resume", "--rule", "mention"), "--resume is about the replay that was begun"),
        (("--resume", "--dry-run"), "--resume is about the replay that was begun"),
        (("--cancel", "--since", "1d"), "--cancel is about the replay that was begun"),
        (("--resume", "--cancel"), "--resume and --cancel exclude each other"),
        (("--since", "1d", "--until", "2d"), "--since is after --until"),
        (("--since", "1d", "--relay", "wss://unknown.example", "--dry-run"), "is not known"),
        (("--since", "1d", "--rule", "none"), "'none' is not one of"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_one_line(
    delivered: Delivered, arguments: tuple[str, ...], text: str
) -> None:
    done = delivered.invoke(*arguments)
    assert done.exit_code != 0
    assert text in done.stderr


def test_replay_without_a_sink_is_refused(delivered: Delivered) -> None:
    delivered.env["EVENTS_SINK"] = "none"
    assert "EVENTS_SINK is off" in delivered.invoke("--since", "2h").stderr


def test_first_of_several_sinks_or_the_named_one_is_given_its_own(delivered: Delivered) -> None:
    delivered.env["EVENTS_SINK"] += ",stdout"
    first, second = notes(3), notes(2, first=3)
    delivered.put(first, sink="jsonl")
    delivered.put(second, sink="stdout")
    assert delivered.run()["sink"] == "jsonl"
    assert delivered.run("--since", "2h", "--sink", "stdout")["sink"] == "stdout"
    rows = delivered.query("SELECT sink, event_id FROM replay_queue JOIN events USING (event) ORDER BY seq")
    assert [(sink, event_id.hex()) for sink, event_id in rows] == [
        *(("jsonl", each.id) for each in first),
        *(("stdout", each.id) for each in second),
    ]
    assert "there is no sink relay" in delivered.invoke("--since", "2h", "--sink", "relay").stderr


def enroll_sinks(database: Database, *names: str, at: int) -> None:
    enroll(database, names, ManualClock(at * 1000), get_logger("test"))


def test_each_sink_is_given_what_it_had_before_the_other_joined(delivered: Delivered) -> None:
    """The file was alone then, as `pubsub`; Pub/Sub has had only what came since, under the same name."""
    before, file, pubsub = notes(3), notes(2, first=3), notes(4, first=5)
    delivered.put(before, at=DELIVERED_AT)
    with open_database(delivered.path, CLOCK) as database:
        enroll_sinks(database, "jsonl", at=DELIVERED_AT)
        enroll_sinks(database, "jsonl", "pubsub", at=DELIVERED_AT + 10)
    delivered.put(file, at=DELIVERED_AT + 20, sink="jsonl")
    delivered.put(pubsub, at=DELIVERED_AT + 20, sink="pubsub")
    delivered.env |= {
        "EVENTS_SINK": f"{delivered.env['EVENTS_SINK']},pubsub",
        "EVENTS_GOOGLE_PUBSUB_PROJECT_ID": "test",
    }
    assert delivered.run()["total"] == 5
    assert delivered.take("jsonl") == [each.id for each in [*before, *file]]
    assert delivered.run("--since", "2h", "--sink", "pubsub")["total"] == 4
    assert delivered.take() == [each.id for each in pubsub]


def test_replay_goes_on_from_its_place_where_the_sink_was_renamed(delivered: Delivered) -> None:
    given = notes(5)
    delivered.put(given)
    with open_database(delivered.path, CLOCK) as database:
        enroll_sinks(database, "jsonl", at=DELIVERED_AT)
        run = run_of(delivered, database, 5, 10_000, Stop(), CLOCK)
        enroll_sinks(database, "jsonl", "stdout", at=DELIVERED_AT + 10)
        run.run()
    assert delivered.take("jsonl") == [each.id for each in given]


def test_two_replays_do_not_run_at_once(delivered: Delivered) -> None:
    lock = FileLock.take(locks_directory(delivered.path) / "replay.lock")
    assert lock is not None
    assert "another event-service replay runs" in delivered.invoke("--since", "2h").stderr
    lock.release()
    assert delivered.run()["total"] == 0
