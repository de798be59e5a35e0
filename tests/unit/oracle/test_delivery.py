"""The books find every fault, and none where there is none."""

import json
from pathlib import Path

import pytest

from tests.factories.events import SignedEvent, authors, forge_signature
from tests.oracle.delivery import UUID_ATTRIBUTE, Delivered, DeliveryOracle, DeliveryReport, delivered_lines
from tests.oracle.relevance import Horizon, Verdict

NOW = 1_700_000_000
ALICE, BOB, CAROL, DAVE = authors(11, 4)
PROFILE = DAVE.sign("{}", kind=0, created_at=NOW)
HERS = ALICE.sign("by a registered user", created_at=NOW)
CONTACTS = ALICE.contact_list([BOB], NOW)
CONTACTS_NOTE = BOB.sign("by her contact", kind=30023, created_at=NOW)
MENTION = CAROL.sign("mentions her", kind=7, created_at=NOW, tags=[["e", "x"], ["p", ALICE.pubkey, "wss://hint"]])
NOISE = CAROL.sign("nobody wants it", created_at=NOW, tags=[["p", DAVE.pubkey]])
WANTED = [PROFILE, HERS, CONTACTS, CONTACTS_NOTE, MENTION]


@pytest.fixture
def oracle() -> DeliveryOracle:
    report = DeliveryOracle()
    report.register(ALICE.pubkey)
    report.hold("ws://one", [*WANTED, NOISE], available_at=NOW)
    return report


def message(event: SignedEvent, number: int = 1, arrived_at: float | None = None) -> Delivered:
    return Delivered(event.raw.encode(), {UUID_ATTRIBUTE: f"{number:026d}"}, arrived_at)


def judge(oracle: DeliveryOracle, *events: SignedEvent) -> DeliveryReport:
    return oracle.judge([message(event, int(event.id[:8], 16)) for event in events])


def test_the_rules_of_relevance(oracle: DeliveryOracle) -> None:
    """Kinds for everyone, registered users, their contacts, mentions; nothing else."""
    assert oracle.required() == {event.id for event in WANTED}
    reasons = oracle.relevance().required()
    assert reasons[PROFILE.id] == "kind 0 by anyone"
    assert reasons[HERS.id] == "by a registered user"
    assert reasons[CONTACTS_NOTE.id] == "by a contact of a registered user"
    assert reasons[MENTION.id] == "mentions a registered user"


def test_books_of_a_perfect_run(oracle: DeliveryOracle) -> None:
    report = judge(oracle, *WANTED)
    assert report.clean
    assert report.exactly_once
    assert report.text().startswith("clean: 5 expected, 5 messages, 5 distinct, 0 lost")
    assert json.loads(report.to_json())["clean"] is True


def test_what_is_missing_is_lost(oracle: DeliveryOracle) -> None:
    """The text says which, why it was due and who held it."""
    report = judge(oracle, PROFILE, HERS, CONTACTS, CONTACTS_NOTE)
    assert [fault.subject for fault in report.lost] == [MENTION.id]
    assert "mentions a registered user, held by ws://one" in report.text()
    assert not report.clean


def test_what_no_rule_wants_and_what_nobody_held_is_extra(oracle: DeliveryOracle) -> None:
    unheard = ALICE.sign("no relay has it", created_at=NOW)
    report = judge(oracle, *WANTED, NOISE, unheard)
    assert {fault.subject for fault in report.extra} == {NOISE.id, unheard.id}


def test_repeats_are_counted_but_clean(oracle: DeliveryOracle) -> None:
    report = judge(oracle, *WANTED, PROFILE, PROFILE)
    assert report.duplicates == {PROFILE.id: 3}
    assert report.clean
    assert not report.exactly_once
    assert "2 repeats of 1 events" in report.text()


def test_a_uuid_stays_with_its_event(oracle: DeliveryOracle) -> None:
    report = oracle.judge([*map(message, WANTED), message(HERS, 2)])
    assert [fault.subject for fault in report.uuid_changes] == [HERS.id]


def test_invalid_payloads_are_found(oracle: DeliveryOracle) -> None:
    """Forgeries, junk, further fields and bad attributes; a forgery does not count as its event."""
    more = json.dumps(HERS.to_value() | {"seen": 1}).encode()
    upper = json.dumps(HERS.to_value() | {"sig": HERS.sig.upper()}).encode()
    uuid = {UUID_ATTRIBUTE: "0" * 26}
    report = oracle.judge(
        [
            message(forge_signature(HERS)),
            Delivered(b"[1]", uuid),
            Delivered(b'{"id":1,"pubkey":2,"created_at":3,"kind":4,"tags":[],"content":5,"sig":6}', uuid),
            Delivered(more, uuid),
            Delivered(upper, uuid),
            Delivered(PROFILE.raw.encode(), {}),
            Delivered(CONTACTS.raw.encode(), {UUID_ATTRIBUTE: "lowercase or short"}),
            Delivered(CONTACTS.raw.encode(), uuid | {"x": "y" * 1025}),
            Delivered(CONTACTS.raw.encode(), uuid | {"x" * 257: "y"}),
            Delivered(CONTACTS.raw.encode(), uuid | {str(number): "y" for number in range(100)}),
            Delivered(CONTACTS.raw.encode(), uuid | {"x" * 256: "y" * 1024}),
        ]
    )
    assert len(report.invalid) == 10
    assert {fault.subject for fault in report.lost} == {MENTION.id, CONTACTS_NOTE.id}
    assert oracle.judge([Delivered(forge_signature(HERS).raw.encode())]).distinct == 0


def test_the_newest_contact_list_counts(oracle: DeliveryOracle) -> None:
    """What only an older list wants may come, but need not; at a tie the lowest id is the newest."""
    oracle.hold("ws://two", [ALICE.contact_list([CAROL], NOW + 1)], available_at=NOW)
    relevance = oracle.relevance()
    assert relevance.judge(NOISE) is Verdict.MUST
    assert relevance.judge(CONTACTS_NOTE) is Verdict.MAY
    tied = DeliveryOracle()
    tied.register(ALICE.pubkey)
    lists = sorted((ALICE.contact_list([who], NOW) for who in (BOB, CAROL)), key=lambda event: event.id)
    tied.hold("ws://one", [*lists, NOISE, CONTACTS_NOTE], available_at=NOW)
    winner = NOISE if CAROL.pubkey in lists[0].mentioned() else CONTACTS_NOTE
    assert winner.id in tied.required()
    assert {NOISE.id, CONTACTS_NOTE.id} & tied.required() == {winner.id}


def test_a_contact_list_dated_ahead_is_not_the_newest(oracle: DeliveryOracle) -> None:
    oracle.hold("ws://one", [ALICE.contact_list([CAROL], NOW + 901)], available_at=NOW)
    assert oracle.required() == {event.id for event in WANTED}


def test_strangers_contact_lists_make_nobody_wanted(oracle: DeliveryOracle) -> None:
    oracle.hold("ws://one", [DAVE.contact_list([CAROL], NOW)], available_at=NOW)
    assert oracle.relevance().judge(NOISE) is Verdict.MUST_NOT


def test_the_horizon_says_what_is_due() -> None:
    """Old events may be missing, unless they came live or are a registered user's newest profile."""
    oracle = DeliveryOracle(Horizon(since=NOW - 100, wanted_since=NOW - 50))
    oracle.register(ALICE.pubkey)
    old_profile = DAVE.sign("{}", kind=0, created_at=NOW - 101)
    old_note = ALICE.sign("old", created_at=NOW - 51)
    her_old_list = ALICE.contact_list([], NOW - 10_000)
    live_old = ALICE.sign("rebroadcast", created_at=NOW - 9_000)
    oracle.hold("ws://one", [old_profile, old_note, her_old_list], available_at=NOW)
    oracle.hold("ws://one", [live_old], available_at=NOW, live=True)
    assert oracle.required() == {her_old_list.id, live_old.id}
    assert oracle.relevance().judge(old_note) is Verdict.MAY


def test_limits_and_doubtful_events(oracle: DeliveryOracle) -> None:
    """Too large is refused for good; dated ahead, expiring, deleted or ephemeral ones may or may not come."""
    oracle.horizon = Horizon(max_event_bytes=2000, max_event_tags=10)
    large = ALICE.sign(created_at=NOW, size=2100)
    tagged = ALICE.sign(created_at=NOW, tags=[["t", str(number)] for number in range(11)])
    ahead = ALICE.sign(created_at=NOW + 901)
    expiring = ALICE.sign(created_at=NOW, tags=[["expiration", str(NOW - 1)]])
    ephemeral = ALICE.sign(kind=20001, created_at=NOW)
    deletion = ALICE.sign(kind=5, created_at=NOW, tags=[["e", HERS.id]])
    oracle.hold("ws://one", [large, tagged, ahead, expiring, ephemeral, deletion], available_at=NOW)
    relevance = oracle.relevance()
    assert [relevance.judge(event) for event in (large, tagged)] == [Verdict.MUST_NOT] * 2
    assert [relevance.judge(event) for event in (ahead, expiring, ephemeral, HERS)] == [Verdict.MAY] * 4
    assert relevance.judge(deletion) is Verdict.MUST


def test_latency_is_taken_from_live_events(oracle: DeliveryOracle) -> None:
    live = ALICE.sign("live", created_at=NOW)
    oracle.hold("ws://one", [live], available_at=NOW + 0.5, live=True)
    oracle.hold("ws://two", [live], available_at=NOW + 0.75, live=True)
    report = oracle.judge([message(live, 3, NOW + 1.0), message(live, 3, NOW + 9.0), message(HERS, 4, NOW + 5.0)])
    assert report.latencies_ms == {"p50": 500.0, "p99": 500.0, "max": 500.0}


def test_a_jsonl_sink_is_read_up_to_its_last_whole_line(tmp_path: Path, oracle: DeliveryOracle) -> None:
    path = tmp_path / "events.jsonl"
    assert delivered_lines(path) == []
    path.write_text("".join(event.raw + "\n" for event in WANTED) + '{"id":"ha')
    assert oracle.judge(delivered_lines(path)).clean
