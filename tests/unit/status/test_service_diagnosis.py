"""What an operator is told of each kind of fault."""

from dataclasses import replace

import pytest

from pipeline.crawl.sync.paging.slices import Gap
from pipeline.process.liveness import StageHealth, StageState
from pipeline.relay.errors import DialReason
from pipeline.status.diagnosis import Diagnosis, Severity, rough_duration
from pipeline.status.gaps import describe_reason
from pipeline.status.service_diagnosis import diagnose
from pipeline.status.snapshot import QueueStatus, SinkStatus, Snapshot
from pipeline.store.audits import AuditOutcome
from pipeline.store.dead import DeadQueue, DeadRow
from pipeline.store.gaps import GapSummary
from pipeline.store.gauges import Failing
from pipeline.store.relay_records import RelayRecord
from pipeline.store.relay_status import RelayState
from pipeline.store.relays import OperatorOverride
from pipeline.store.shares import Budget, Waiting
from pipeline.store.sinks import SinkName

NOW = 1_700_000_000_000
EVENT = b"\xab" * 32
QUEUES = tuple(QueueStatus(name, 0, None, 0) for name in ("inbox", "outbox-pubsub", "outbox-relay"))
WELL = Snapshot(
    now=NOW,
    stages=(StageHealth("saver-0", StageState.OK, None, ""),),
    queues=QUEUES,
    sinks=(SinkStatus(SinkName.PUBSUB, "projects/p/topics/t", {"UNAVAILABLE": 3}),),
    relays=(),
    gaps=(),
    failing=(),
    dead=(),
    samples=(),
    discarded={},
    errors={("saver", "ValueError"): 2, ("forwarder", "sink-down"): 9},
    exits={},
    known_addresses=0,
    registered_users=0,
    budget=Budget(0, 0, 0),
    waiting=Waiting(0, 0),
    database_bytes=0,
    has_room_for_strangers=True,
    is_database_full=False,
    wal_bytes=0,
    free_bytes=1 << 40,
)


def test_unnamed_proxy_is_told_with_the_setting() -> None:
    (found,) = diagnose(replace(WELL, discarded={("server", "unnamed-proxy"): 7}), 0)
    assert (found.severity, found.subject) == (Severity.NOTE, "web server")
    assert "EVENTS_TRUSTED_PROXIES" in found.what


def test_processes_with_different_sinks_are_named_without_arguments() -> None:
    """A saver that was not restarted when a sink was named again writes nothing for it."""
    slots = {"supervisor": "pubsub,nats:nats://user:secret@host", "forwarder-1": "pubsub", "saver-1": "pubsub"}
    (found,) = diagnose(replace(WELL, sinks_of_slots=slots), 0)
    assert (found.severity, found.subject) == (Severity.PROBLEM, "EVENTS_SINK")
    assert found.what.endswith("pubsub in forwarder-1, saver-1; pubsub,nats in supervisor")
    assert diagnose(replace(WELL, sinks_of_slots=dict.fromkeys(slots, "pubsub")), 0) == []


def test_relays_that_are_put_off_are_told() -> None:
    put_off = relay(RelayState.DISCONNECTED, f"{DialReason.CROWDED}: 203.0.113.9 was dialled too often lately")
    well = relay(RelayState.CONNECTED, number=2)
    (found,) = diagnose(replace(WELL, relays=(put_off, well)), 0)
    assert (found.severity, found.subject) == (Severity.NOTE, "relays")
    assert found.what.startswith("1 relay put off")


def test_followees_that_wait_are_told_with_the_setting() -> None:
    (found,) = diagnose(replace(WELL, budget=Budget(1_900_000, 2_000_000, 1_000), waiting=Waiting(2, 13_900)), 0)
    assert (found.severity, found.subject) == (Severity.NOTE, "users")
    assert found.what.startswith(
        "13,900 followees of 2 users waiting: 1,900,000 authors are wanted of at most 2,000,000"
    )
    assert "EVENTS_MAX_WANTED_AUTHORS" in found.advice


def test_home_without_a_young_backup_is_told_how_to_make_one() -> None:
    assert not diagnose(WELL, 0)
    assert not diagnose(replace(WELL, is_home=True, backed_up_at=NOW - 2 * 86_400_000), 0)
    found = one(replace(WELL, is_home=True))
    assert (found.severity, found.subject) == (Severity.NOTE, "backups")
    assert found.what.startswith("there is no backup: ")
    assert "event-service backup --keep" in found.advice
    old = replace(WELL, is_home=True, backed_up_at=NOW - 4 * 86_400_000)
    assert one(old).what.startswith("the newest backup is 4d old: ")
    dropped = one(replace(old, errors={("hub", "unbacked-parcels"): 7}))
    assert dropped.severity is Severity.PROBLEM
    assert "and the hub dropped 7 parcels that no host has" in dropped.what


def test_backlog_of_a_sink_that_is_off_is_no_problem() -> None:
    """Whatever its age and size; it is said how to get rid of it."""
    queues = (*QUEUES[:2], QueueStatus("outbox-relay", 9_000, 10**10, 0))
    (found,) = diagnose(replace(WELL, queues=queues), 1_000)
    assert (found.severity, found.subject) == (Severity.NOTE, "outbox-relay")
    assert found.what == "9,000 events kept for a sink that is off"
    assert "dead drop --sink relay" in found.advice


def relay(state: RelayState, last_error: str = "", failures: int = 0, number: int = 1) -> RelayRecord:
    return RelayRecord(
        number, f"wss://r{number}.example", "bootstrap", OperatorOverride.NOTHING, 0, 0, 0, False, 1, state, 0, 0,
        "query", "auto", 0.0, 0, 0, 0, failures, 0, 0, last_error, "{}",
    )  # fmt: skip


def one(snapshot: Snapshot) -> Diagnosis:
    (found,) = diagnose(snapshot, 900_000)
    return found


def test_relay_that_left_out_live_events_is_told() -> None:
    found = one(replace(WELL, relays=(replace(relay(RelayState.CONNECTED), live_missed_at=1_800_000_000),)))
    assert (found.severity, found.subject) == (Severity.NOTE, "relays")
    assert "1 relay left out events of live subscriptions" in found.what
    assert "wss://r1.example" in found.what


def test_relay_that_was_cut_off_for_forgeries_is_told_once_for_a_day() -> None:
    forging = replace(
        relay(RelayState.DISCONNECTED, "too many", failures=1, number=2),
        forged=5_001, forged_at=NOW - 1, state_since=NOW - 1,
    )  # fmt: skip
    relays = (relay(RelayState.CONNECTED), forging)
    found = one(replace(WELL, relays=relays))
    assert found.severity is Severity.NOTE
    assert "1 relay cut off for forged events: wss://r2.example (5,001 events)" in found.what
    up_again = replace(relay(RelayState.CONNECTED), forged=5_001, forged_at=NOW - 86_400_001)
    assert diagnose(replace(WELL, relays=(up_again,)), 900_000) == []


def test_relay_whose_strangers_are_paced_is_told_with_the_setting() -> None:
    found = one(replace(WELL, relays=(replace(relay(RelayState.CONNECTED), paced_at=NOW - 1),)))
    assert (found.severity, found.subject) == (Severity.NOTE, "relays")
    assert "EVENTS_RELAY_BYTE_RATE" in found.what
    assert "wss://r1.example" in found.what


def test_open_absences_are_reported_longest_first_with_their_sweeps() -> None:
    up, now = relay(RelayState.CONNECTED), NOW // 1000
    swept = replace(up, owed_since=now - 7_200, is_resweeping=True)
    owed = [replace(up, address=f"wss://r{n}.example", owed_since=now - n * 60) for n in (2, 5)]
    under_way, waiting = diagnose(
        replace(WELL, relays=(*owed, swept, replace(up, address="wss://r9.example"))), 900_000
    )
    assert {under_way.severity, waiting.severity} == {Severity.NOTE}
    assert under_way.what == (
        "1 relay being swept for what came while we were away, the oldest for 2h: wss://r1.example (connected)"
    )
    assert waiting.what == (
        "2 relays still to be swept for what came while we were away, the oldest for 5m: "
        "wss://r5.example (connected), wss://r2.example (connected)"
    )


def test_a_service_that_is_well_has_no_troubles() -> None:
    assert diagnose(replace(WELL, relays=(relay(RelayState.CONNECTED),)), 900_000) == []


def test_nothing_that_runs_is_a_problem() -> None:
    assert one(replace(WELL, stages=())).what == "no stage runs"


@pytest.mark.parametrize(("state", "words"), [(StageState.HUNG, "killed"), (StageState.FAILING, "check --online")])
def test_a_stage_in_trouble_is_told_with_what_to_do(state: StageState, words: str) -> None:
    found = one(replace(WELL, stages=(StageHealth("forwarder-0", state, "2026-01-02T03:04:05Z", "why"),)))
    assert (found.severity, found.subject) == (Severity.PROBLEM, "forwarder-0")
    assert "since 2026-01-02T03:04:05Z: why" in found.what
    assert words in found.advice


def test_dead_rows_are_told_with_their_reasons() -> None:
    rows = (DeadRow(DeadQueue.INBOX, 1, EVENT, "ValueError: it hurts", 1, 5, NOW),)
    found = one(replace(WELL, dead=rows, queues=(replace(QUEUES[0], dead=1), *QUEUES[1:])))
    assert found.what == "1 dead letter: ValueError: it hurts"
    assert "dead list --queue inbox" in found.advice


def test_a_row_that_keeps_failing_is_told_before_it_is_given_up() -> None:
    found = one(replace(WELL, failing=(Failing(None, EVENT, 2, NOW + 5),)))
    assert found.severity is Severity.NOTE
    assert found.what == "1 event failed and to be retried, one 2 times; so far: ValueError (2)"
    assert (found.advice, found.event) == (f"event-service explain {EVENT.hex()}", EVENT.hex())


def test_what_a_sink_said_of_failing_rows_is_told() -> None:
    found = one(replace(WELL, failing=(Failing(SinkName.PUBSUB, EVENT, 1, NOW + 5),)))
    assert found.subject == "outbox-pubsub"
    assert "UNAVAILABLE (3)" in found.what


def test_a_full_backlog_of_the_target_relay_is_a_problem() -> None:
    """From the row on from which others are discarded for it; without a bound there is none."""

    def with_bounds(queue: QueueStatus, events: int, size: int) -> Snapshot:
        target = SinkStatus(SinkName.RELAY, "wss://target.example", {}, "sender", events, size)
        return replace(WELL, queues=(*QUEUES[:2], queue), sinks=(*WELL.sinks, target))

    full = QueueStatus("outbox-relay", 1_000, 5, 0)
    found = one(with_bounds(full, 1_000, 1 << 30))
    assert (found.severity, found.subject) == (Severity.PROBLEM, "outbox-relay")
    assert found.what == "backlog full (1,000 events): the oldest are being discarded"
    assert "EVENTS_TARGET_RELAY_BACKLOG" in found.advice
    assert diagnose(with_bounds(full, 1_001, 1 << 30), 900_000) == []
    assert diagnose(with_bounds(full, 0, 1 << 30), 900_000) == []
    large = QueueStatus("outbox-relay", 9, 5, 0, (1 << 30) - 5)
    assert "EVENTS_TARGET_RELAY_BACKLOG_BYTES" in one(with_bounds(large, 0, 1 << 30)).advice
    assert diagnose(with_bounds(large, 0, 0), 900_000) == []


def test_a_full_backlog_of_a_further_sink_names_forwarder_and_bound() -> None:
    nats = SinkStatus(SinkName("nats"), "nats:nats://127.0.0.1/x", {}, "forwarder-nats", 500)
    seen = replace(WELL, queues=(*QUEUES, QueueStatus("outbox-nats", 500, 5, 0)), sinks=(*WELL.sinks, nats))
    found = one(seen)
    assert (found.severity, found.subject) == (Severity.PROBLEM, "outbox-nats")
    assert found.advice == "see what the forwarder-nats reports; EVENTS_SINK_BACKLOG is the bound"


def test_what_a_removed_sink_has_left_is_named_with_how_to_drop_it() -> None:
    found = one(replace(WELL, queues=(*QUEUES, QueueStatus("outbox-nats", 12, 5, 0))))
    assert (found.severity, found.subject) == (Severity.NOTE, "outbox-nats")
    assert found.what == "12 events kept for a sink that is off"
    assert "event-service dead drop --sink nats" in found.advice


def test_stalled_queue_is_a_problem_and_age_zero_bounds_nothing() -> None:
    seen = replace(WELL, queues=(QueueStatus("inbox", 7, 3_600_000, 0), *QUEUES[1:]))
    assert one(seen).what == "7 pending, the oldest for 1h"
    assert diagnose(seen, 0) == []


def test_relays_that_refuse_or_are_gone_are_named() -> None:
    up, bad = relay(RelayState.CONNECTED), relay(RelayState.CONNECTED, "restricted: pay first", number=2)
    gone = relay(RelayState.DISCONNECTED, "refused", 3, 3)
    refusing, down = diagnose(replace(WELL, relays=(up, bad, gone)), 0)
    assert "wss://r2.example (restricted: pay first)" in refusing.what
    assert "wss://r3.example (refused)" in down.what


def test_no_relay_at_all_is_a_problem_of_ours() -> None:
    found = one(replace(WELL, relays=(relay(RelayState.DISCONNECTED, "no route", 3),)))
    assert found.severity is Severity.PROBLEM
    assert "no route" in found.what


def test_a_gap_is_explained() -> None:
    newest = GapSummary(
        "wss://r1.example", "dense-second", 4, "authors/01", 1_700_000_000, 1_700_000_000, 1_700_000_001
    )
    found = one(replace(WELL, gaps=(newest,)))
    assert found.what.startswith(
        "dense-second at wss://r1.example (events by followed authors (chunk 01) at 2023-11-14T22:13:20Z and 3 more)"
        ": it may hold more events of one second"
    )
    assert "closes by itself" in found.advice


@pytest.mark.parametrize("gap", Gap)
def test_every_kind_of_gap_has_its_words(gap: Gap) -> None:
    assert describe_reason(gap.value) != gap.value


def test_many_alike_are_counted() -> None:
    down = tuple(relay(RelayState.DISCONNECTED, "x", 1, number) for number in range(2, 12))
    found = one(replace(WELL, relays=(relay(RelayState.CONNECTED), *down)))
    assert found.what.startswith("10 relays cannot be reached")
    assert found.what.endswith("and 7 more")


def test_a_restart_and_a_full_disk_are_told() -> None:
    assert "1 time and was restarted: hung" in one(replace(WELL, exits={("saver-0", "hung"): 1})).what
    assert one(replace(WELL, free_bytes=1 << 20)).subject == "disk"


def test_database_beyond_its_bound_is_reported_with_the_setting() -> None:
    found = one(replace(WELL, has_room_for_strangers=False))
    assert (found.severity, found.subject) == (Severity.PROBLEM, "database")
    assert "EVENTS_MAX_DATABASE_BYTES" in found.what


def test_full_database_is_reported_with_the_setting_and_once() -> None:
    found = one(replace(WELL, has_room_for_strangers=False, is_database_full=True))
    assert (found.severity, found.subject) == (Severity.PROBLEM, "database")
    assert "EVENTS_MAX_DATABASE_BYTES" in found.what
    assert "not read" in found.what


def test_a_rough_duration() -> None:
    assert [rough_duration(ms) for ms in (0, 999, 61_000, 90_000_000)] == ["0s", "0s", "1m", "1d"]


def test_misses_of_the_newest_sample_are_a_note() -> None:
    (found,) = diagnose(replace(WELL, audit=AuditOutcome(at=1, had=247, missed=3, all_missed=9)), 0)
    assert found.severity is Severity.NOTE
    assert found.what.startswith("3 of 250 events of the newest sample")
    assert not diagnose(replace(WELL, audit=AuditOutcome(at=1, had=250, all_missed=9)), 0)
