"""`event-service audit`: what relays have and the service has not is found, and nothing else."""

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.audit import client
from pipeline.audit.audit import Audit
from pipeline.audit.journal import Findings, Journal, Scope, read_journal
from pipeline.audit.policy import policy_of
from pipeline.cli import main
from pipeline.process.clock import SystemClock
from pipeline.process.stop import Stop
from pipeline.settings.config import Config
from pipeline.store import audits, contacts, events, inbox, relay_records, relay_status, relays, users
from pipeline.store.authors import Authors
from pipeline.store.contacts import ContactList
from pipeline.store.events import Accepted
from pipeline.store.relay_status import RelayState, RelayStatus
from pipeline.store.schema import open_database
from tests.factories.events import SignedEvent, assemble, authors
from tests.fakes.behaviour import NOSTR_RELAY, NOSTR_RS, STRFRY, Behaviour, How, Order, RateLimit, Refusal
from tests.fakes.net import free_port, loopback_address
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Req
from tests.fakes.service import settings

ALICE, BOB, STRANGER = authors(260, 3)
NOW = int(time())
BEGAN_MS = (NOW - 10 * 86_400) * 1000
CLOCK = SystemClock()


def events_of_all() -> list[SignedEvent]:
    """What a user and a followee wrote, and what mentions the user, in the last hours."""
    mention = [("p", ALICE.pubkey)]
    return [
        *(ALICE.sign(f"a{n}", kind=(1, 7, 30_023)[n % 3], created_at=NOW - 2_000 - 60 * n) for n in range(25)),
        *(BOB.sign(f"b{n}", kind=1, created_at=NOW - 1_500 - 90 * n) for n in range(40)),
        *(STRANGER.sign(f"m{n}", kind=1, created_at=NOW - 1_200 - 80 * n, tags=mention) for n in range(15)),
        *(STRANGER.sign(f"x{n}", kind=1, created_at=NOW - 1_300 - 70 * n) for n in range(15)),
    ]


def is_wanted(event: SignedEvent) -> bool:
    return event.pubkey != STRANGER.pubkey or ALICE.pubkey in event.mentioned()


class Audited:
    """A service's database: a user who follows another, relays that were crawled, and what was accepted."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.db"
        self.journal = folder / "events.db.audit"
        self.env = os.environ | settings(EVENTS_DATABASE_PATH=str(self.path))
        with open_database(self.path, CLOCK) as database, database.write() as tx:
            known = Authors()
            users.register(tx, bytes.fromhex(ALICE.pubkey), BEGAN_MS)
            alice, bob = (known.intern(tx, bytes.fromhex(each.pubkey)) for each in (ALICE, BOB))
            contacts.replace(tx, ContactList(alice, b"c" * 32, BEGAN_MS // 1000, [bob]), BEGAN_MS)

    def crawl(self, addresses: Iterable[str]) -> None:
        """Let the relays be known as connected since the service began."""
        with open_database(self.path, CLOCK) as database, database.write() as tx:
            relays.set_bootstrap(tx, addresses, BEGAN_MS)
            for address in addresses:
                number = relays.find(tx, address)
                assert number is not None
                relay_status.start_crawling(tx, [number], BEGAN_MS)
                status = RelayStatus(number, address, RelayState.CONNECTED, BEGAN_MS, 1, 0, 0, 0, "")
                relay_status.put_statuses(tx, [status])

    def accept(self, accepted: Sequence[SignedEvent]) -> None:
        with open_database(self.path, CLOCK) as database, database.write() as tx:
            known = Authors()
            rows = [
                Accepted(
                    1_000 + number, bytes.fromhex(each.id), each.created_at, each.kind,
                    known.intern(tx, bytes.fromhex(each.pubkey)), each.raw.encode(), 1, NOW * 1000, 1,
                )
                for number, each in enumerate(accepted)
            ]  # fmt: skip
            events.accept(tx, rows, NOW * 1000)

    def invoke(self, *arguments: str) -> Result:
        fast = ("--rate", "100", "--settle", "0")
        done = CliRunner().invoke(main, ["audit", *fast, *arguments], env=self.env)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    def run(self, *arguments: str) -> dict[str, Any]:
        done = self.invoke("--users", "--sample", "10", *arguments, "--json")
        value: dict[str, Any] = json.loads(done.stdout)
        assert done.exit_code == (1 if value["misses"] else 0 if value["is_proven"] else 5)
        return value

    def waiting(self) -> set[str]:
        with open_database(self.path, CLOCK) as database, database.read() as tx:
            return {event_id.hex() for (event_id,) in tx.execute("SELECT event_id FROM inbox")}


@pytest.fixture
def audited(tmp_path: Path) -> Audited:
    return Audited(tmp_path)


BEHAVIOURS = (
    STRFRY | Behaviour(negentropy=True),
    Behaviour(cap=10, order=Order.SHUFFLED),
    NOSTR_RELAY,
    NOSTR_RS,
    Behaviour(cap=20, order=Order.ARRIVAL, kinds_for_times=True),
)


def test_crawling_host_leaves_audits_to_home(tmp_path: Path) -> None:
    """It does not know what other hosts found, and would report and fetch that."""
    env = settings(
        EVENTS_DATABASE_PATH=str(tmp_path / "events.db"), EVENTS_ROLE="crawler", EVENTS_HOST="fra1",
        EVENTS_HUB="postgresql://fra1@db.example.com/events",
    )  # fmt: skip
    done = CliRunner().invoke(main, ["audit"], env=env)
    assert (done.exit_code, done.stderr) == (1, "Error: home knows what all hosts found: run this there\n")


def test_every_planted_miss_is_found_at_each_relay_and_fetched(audited: Audited) -> None:
    everything = events_of_all()
    wanted = list(filter(is_wanted, everything))
    planted = {each.id for each in wanted[::9]}
    audited.accept([each for each in wanted if each.id not in planted])
    with ExitStack() as stack:
        served = [stack.enter_context(ScriptedRelay(each, events=everything)) for each in BEHAVIOURS]
        urls = sorted(each.url for each in served)
        audited.crawl(urls)
        found = audited.run()
        assert {each["id"] for each in found["misses"]} == planted
        assert all(sorted(each["relays"]) == urls and each["fetched"] for each in found["misses"])
        assert all(dict(each["explain"])["never accepted"] for each in found["misses"])
        assert (found["held"], found["missed"]) == (len(wanted) - len(planted), len(planted))
        assert [each["missed"] for each in found["by_relay"]] == [len(planted)] * len(urls)
        assert {name: each["missed"] > 0 for name, each in found["by_rule"].items()} == dict.fromkeys(
            ("user", "followee", "mention"), True
        )
        assert audited.waiting() == planted
        assert not audited.journal.exists()
        again = audited.run()
    assert (again["missed"], again["recall"]) == (0, 1.0)


def test_event_of_one_relay_is_missed_there_alone(audited: Audited) -> None:
    everything = events_of_all()
    audited.accept(everything[1:])
    with ScriptedRelay(events=everything) as first, ScriptedRelay(events=everything[1:]) as second:
        audited.crawl([first.url, second.url])
        done = audited.invoke("--users", "--no-fetch")
    assert done.exit_code == 1
    assert f"missed {everything[0].id}" in done.stdout
    assert f"at {first.url}; not at 1 other relay" in done.stdout
    assert "not fetched" in done.stdout
    assert not audited.waiting()


def test_lying_relays_make_no_miss(audited: Audited) -> None:
    genuine = [each for each in events_of_all() if is_wanted(each)]
    unsigned = [
        replace(each, sig="0" * 128, raw=each.raw.replace(each.sig, "0" * 128))
        for each in (BOB.sign(f"forged {n}", created_at=NOW - 1_400 - n) for n in range(6))
    ]
    hashed = [
        assemble("ab" * 31 + f"{n:02x}", BOB.pubkey, NOW - 1_450 - n, 1, (), "no hash", each.sig)
        for n, each in enumerate(unsigned)
    ]
    strangers = tuple(STRANGER.sign(f"unasked {n}", created_at=NOW - 1_400 - n) for n in range(2))
    audited.accept(genuine)
    lies = [*genuine, *unsigned, *hashed]
    liars = (Behaviour(unasked=strangers), STRFRY | Behaviour(negentropy=True), Behaviour(garbage=('["EVENT"]', "x")))
    with ExitStack() as stack:
        served = [stack.enter_context(ScriptedRelay(each, events=lies)) for each in liars]
        audited.crawl([each.url for each in served])
        found = audited.run()
    assert (found["held"], found["missed"]) == (len(genuine), 0)
    assert found["excluded"]["invalid-signature"] >= len(unsigned)
    assert found["excluded"]["invalid-hash"] >= len(hashed)
    assert found["excluded"]["not asked for"]
    assert not audited.waiting()


def test_relay_that_ignores_until_is_asked_a_bounded_number_of_times(audited: Audited) -> None:
    everything = events_of_all()
    audited.accept(list(filter(is_wanted, everything)))
    with ScriptedRelay(Behaviour(ignores_until=True), events=everything) as relay:
        audited.crawl([relay.url])
        found = audited.run()
        assert len(relay.journal.of(Req)) < 100
    assert (found["held"], found["missed"]) == (len(list(filter(is_wanted, everything))), 0)


def test_relay_that_rations_requests_is_waited_for(audited: Audited) -> None:
    everything = events_of_all()
    wanted = list(filter(is_wanted, everything))
    audited.accept(wanted[1:])
    rations = RateLimit(per_s=4, burst=3, refusal=Refusal(How.CLOSED, "rate-limited: slow down"))
    with ScriptedRelay(Behaviour(rate=rations, cap=30), events=everything) as relay:
        audited.crawl([relay.url])
        found = audited.run()
    assert [each["id"] for each in found["misses"]] == [wanted[0].id]
    assert (found["held"], found["unproven"]) == (len(wanted) - 1, [])


def test_what_is_dated_before_the_reach_of_the_crawl_is_no_miss(audited: Audited) -> None:
    old = BOB.sign("old", created_at=BEGAN_MS // 1000 - 2 * 86_400)
    with ScriptedRelay(events=[old]) as relay:
        audited.crawl([relay.url])
        found = audited.run("--since", "20d")
    assert (found["missed"], found["excluded"]) == (0, {"before the crawl's reach": 1})


def test_relays_that_refuse_or_are_away_are_named(audited: Audited) -> None:
    refusing = Behaviour(refusals=(Refusal(reason="restricted: members only"),))
    away = f"ws://{(host := loopback_address())}:{free_port(host)}"
    with ScriptedRelay(refusing, events=events_of_all()) as relay:
        audited.crawl([relay.url, away])
        found = audited.run()
    problems = {each["relay"]: each["problem"] for each in found["by_relay"]}
    assert problems[relay.url] == "restricted: restricted: members only"
    assert "refused" in problems[away]
    assert found["recall"] is None
    assert {each["why"] for each in found["unproven"]} == {"restricted: restricted: members only"}


def test_audit_that_only_refusals_answered_has_a_code_of_its_own(audited: Audited) -> None:
    """A single question that is refused is no problem of the relay, and no proof either."""
    refusing = Behaviour(refusals=(Refusal(reason="error: not now"),))
    with ScriptedRelay(refusing, events=events_of_all()) as relay:
        audited.crawl([relay.url])
        done = audited.invoke("--author", BOB.pubkey)
    assert done.exit_code == 5
    assert "this proves nothing" in done.stdout


def test_sample_of_none_is_refused(audited: Audited) -> None:
    done = audited.invoke("--sample", "0")
    assert done.exit_code == 2
    assert "0 is not in the range 1<=x<=100000" in done.stderr


@pytest.mark.parametrize(("bound", "most"), [("MAX_PAGE_EVENTS", 5), ("MAX_PAGE_BYTES", 2_000)])
def test_answer_without_an_end_is_cut_off_and_named(
    audited: Audited, bound: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, bound, most)
    monkeypatch.setattr(client, "_REDIAL_S", 0.0)
    endless = [BOB.sign(f"{n}", created_at=NOW - 2_000) for n in range(200)]
    audited.accept(endless)
    with ScriptedRelay(Behaviour(cap=None), events=endless) as relay:
        audited.crawl([relay.url])
        done = audited.invoke("--author", BOB.pubkey, "--json")
    assert "an answer without an end" in {
        each["why"].partition(": ")[2] for each in json.loads(done.stdout)["unproven"]
    }
    assert done.exit_code == 5


def test_comparison_that_names_too_much_is_asked_for_by_page(audited: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_NEED", 5)
    everything = [each for each in events_of_all() if each.pubkey == BOB.pubkey]
    with ScriptedRelay(Behaviour(negentropy=True), events=everything) as relay:
        audited.crawl([relay.url])
        found = audited.run("--no-fetch")
        assert [each for each in relay.journal.of(Req) if "ids" in str(each.filters)] == []
    assert found["missed"] == len(everything)


def test_interrupted_audit_goes_on_where_it_was(audited: Audited) -> None:
    everything = events_of_all()
    wanted = list(filter(is_wanted, everything))
    audited.accept(wanted[3:])
    with ScriptedRelay(Behaviour(cap=20), events=everything) as relay:
        audited.crawl([relay.url])
        with open_database(audited.path, CLOCK) as database, database.read() as tx:
            records = relay_records.records(tx, everything=False, limit=9)
            subjects = tuple(audits.sample_wanted(tx, 9))
        scope = Scope(NOW - 86_400, NOW, subjects, tuple(each.relay for each in records))

        def interrupt(done: int) -> None:
            if done:
                raise KeyboardInterrupt

        journal, policy = Journal(audited.journal, scope), policy_of(Config.from_env(audited.env))
        one = Audit(scope, policy, lambda: open_database(audited.path, CLOCK), CLOCK, Stop(), journal)
        with pytest.raises(KeyboardInterrupt):
            one.ask(records, interrupt)
        journal.close()
        answered = [each.question for each in read_journal(audited.journal)[1].answers]
        assert len(answered) == 1
        assert "--resume goes on with it" in audited.invoke("--users").stderr
        found = audited.run("--resume")
    assert {each["id"] for each in found["misses"]} == {each.id for each in wanted[:3]}
    assert found["held"] == len(wanted) - 3
    assert "no audit was interrupted" in audited.invoke("--resume").stderr


def test_misses_that_were_noted_and_not_fetched_are_fetched_on_resume(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends between the journal and the commit."""
    everything = [BOB.sign("never", created_at=NOW - 1_000 - n) for n in range(3)]
    with ScriptedRelay(events=everything) as relay:
        audited.crawl([relay.url])
        with monkeypatch.context() as patch:
            patch.setattr(inbox, "append", None)
            done = CliRunner().invoke(main, ["audit", "--rate", "100", "--settle", "0"], env=audited.env)
            assert isinstance(done.exception, TypeError)
        assert len(read_journal(audited.journal)[1].misses) == 3
        assert not audited.waiting()
        found = audited.run("--resume")
    assert audited.waiting() == {each.id for each in everything} == {each["id"] for each in found["misses"]}
    with open_database(audited.path, CLOCK) as database, database.read() as tx:
        assert audits.latest(tx).all_missed == 3


def test_what_arrives_by_itself_meanwhile_is_no_miss(audited: Audited) -> None:
    everything = [BOB.sign("late", created_at=NOW - 1_000), BOB.sign("never", created_at=NOW - 1_001)]
    with ScriptedRelay(events=everything) as relay, open_database(audited.path, CLOCK) as database:
        audited.crawl([relay.url])
        with database.read() as tx:
            records = relay_records.records(tx, everything=False, limit=9)
            subjects = tuple(audits.sample_wanted(tx, 9))
        scope = Scope(NOW - 86_400, NOW, subjects, tuple(each.relay for each in records))
        policy = policy_of(Config.from_env(audited.env), rate=100, settle_s=0)
        found = Findings()
        one = Audit(
            scope, policy, lambda: open_database(audited.path, CLOCK), CLOCK, Stop(), Journal(None, scope), found
        )
        one.ask(records)
        assert len(found.candidates) == 2
        audited.accept(everything[:1])
        assert one.settle(database) == 1
        assert [each.event_id.hex() for each in found.misses] == [everything[1].id]
        with database.read() as tx:
            assert inbox.known(tx, [(bytes.fromhex(everything[1].id), NOW - 1_001)])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--author", STRANGER.pubkey), "is not wanted"),
        (("--relay", "wss://unknown.example"), "is not known"),
        (("--since", "1d", "--until", "2d"), "--since is after --until"),
        ((), "no relay was connected yet"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_line(audited: Audited, arguments: tuple[str, ...], text: str) -> None:
    done = audited.invoke(*arguments)
    assert done.exit_code != 0
    assert text in done.stderr
