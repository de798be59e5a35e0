"""Relay addresses: who named them, which are worth dialling, how they fare."""

from dataclasses import replace

from pipeline.store import relay_candidates, relay_mentions, relay_records, relay_status, relays
from pipeline.store.database import Database, Tx
from pipeline.store.relay_candidates import FIRST_SEEN_HALF_LIFE_MS, RelayCandidate
from pipeline.store.relay_mentions import MentionOutcome
from pipeline.store.relay_pruning import MAX_MENTIONS
from pipeline.store.relay_status import RelayCost, RelayState, RelayStatus
from pipeline.store.relays import OperatorOverride

NOW = 1_700_000_000_000


def name(tx: Tx, address: str, author: int, *, is_user: bool = False, now: int = NOW) -> MentionOutcome:
    return relay_mentions.record_mention(tx, address, source="relay-list", author=author, is_user=is_user, now=now)


def addresses(tx: Tx, *, discovered: bool = True, limit: int = 100) -> list[str]:
    return [candidate.address for candidate in relay_candidates.candidates(tx, discovered=discovered, limit=limit)]


def namers(tx: Tx, address: str) -> object:
    return tx.execute("SELECT namers FROM relays WHERE address = ?", (address,)).get


def test_a_relay_is_worth_dialling_once_two_authors_or_a_user_named_it(db: Database) -> None:
    with db.write() as tx:
        name(tx, "wss://one.example", 1)
        name(tx, "wss://one.example", 1)
        assert addresses(tx) == []
        name(tx, "wss://one.example", 2)
        name(tx, "wss://user.example", 1, is_user=True)
        assert addresses(tx) == ["wss://user.example", "wss://one.example"]
        assert addresses(tx, discovered=False) == []


def test_the_best_come_first_and_bootstrap_before_all(db: Database) -> None:
    with db.write() as tx:
        for author in range(1, 6):
            name(tx, "wss://five.example", author)
        for author in range(1, 4):
            name(tx, "wss://three.example", author)
        name(tx, "wss://user.example", 1, is_user=True)
        relays.set_bootstrap(tx, ["wss://boot.example", "wss://three.example"], NOW)
        best = ["wss://three.example", "wss://boot.example", "wss://user.example", "wss://five.example"]
        assert addresses(tx) == best
        assert addresses(tx, limit=3) == best[:3]
        assert addresses(tx, discovered=False) == best[:2]
        assert [each.by_operator for each in relay_candidates.candidates(tx, discovered=True, limit=9)] == [
            True
        ] * 2 + [False] * 2


def test_a_former_bootstrap_relay_must_be_named_like_any_other(db: Database) -> None:
    with db.write() as tx:
        relays.set_bootstrap(tx, ["wss://old.example", "wss://both.example"], NOW)
        name(tx, "wss://old.example", 1)
        relays.set_bootstrap(tx, ["wss://both.example", "wss://new.example"], NOW + 1)
        assert addresses(tx) == ["wss://both.example", "wss://new.example"]
        name(tx, "wss://old.example", 2)
        assert addresses(tx)[-1] == "wss://old.example"
        relays.set_bootstrap(tx, [], NOW + 2)
        assert addresses(tx, discovered=False) == []
        assert relays.count(tx) == 3
        assert relays.found(tx) == 1, "the others are only configured"


def test_namers_are_counted_once_each_and_no_further_than_needed(db: Database) -> None:
    with db.write() as tx:
        for author in range(MAX_MENTIONS * 2):
            for _ in range(2):
                name(tx, "wss://popular.example", author)
        assert namers(tx, "wss://popular.example") == MAX_MENTIONS
        assert tx.execute("SELECT count(*) FROM relay_namers").get == MAX_MENTIONS
        name(tx, "wss://popular.example", 10**6, is_user=True)
        assert tx.execute("SELECT named_by_user FROM relays").get == 1


def test_whether_an_address_is_new_is_told_truly(db: Database) -> None:
    """Also of one that has been a bootstrap relay all along without anybody naming it."""
    with db.write() as tx:
        relays.set_bootstrap(tx, ["wss://boot.example"], NOW)
        assert name(tx, "wss://new.example", 1) is MentionOutcome.NEW
        assert name(tx, "wss://new.example", 1) is MentionOutcome.KNOWN
        assert name(tx, "wss://new.example", 2) is MentionOutcome.KNOWN
        assert name(tx, "wss://boot.example", 1) is MentionOutcome.KNOWN


def test_the_first_source_and_time_stay_and_the_last_time_moves(db: Database) -> None:
    with db.write() as tx:
        name(tx, "wss://a.example", 1)
        relay_mentions.record_mention(tx, "wss://a.example", source="hint", author=2, is_user=False, now=NOW + 5)
        row = tx.execute("SELECT source, first_seen, last_seen FROM relays").fetchall()
    assert row == [("relay-list", NOW, NOW + 5)]


def test_crawling_begins_once(db: Database) -> None:
    with db.write() as tx:
        relays.set_bootstrap(tx, ["wss://a.example", "wss://b.example"], NOW)
        number = relays.find(tx, "wss://a.example")
        assert number is not None
        assert relays.find(tx, "wss://c.example") is None
        relay_status.start_crawling(tx, [number], NOW + 1)
        relay_status.start_crawling(tx, [number], NOW + 2)
        (a, b) = relay_candidates.candidates(tx, discovered=False, limit=9)
        assert a == RelayCandidate(number, "wss://a.example", True, NOW + 1, 0, 0, "{}")
        assert b.crawled_since is None
        (status,) = relay_status.statuses(tx)
        assert (status.relay, status.state) == (number, RelayState.INITIALIZING)


def test_the_time_of_a_state_stays_while_the_state_does(db: Database) -> None:
    with db.write() as tx:
        relays.set_bootstrap(tx, ["wss://a.example"], NOW)
        relay_status.start_crawling(tx, [1], NOW)
        status = RelayStatus(1, "wss://a.example", RelayState.CONNECTED, NOW + 1, 5, 700, 0, 0, "")
        relay_status.put_statuses(tx, [status])
        assert relay_status.statuses(tx) == [status]
        relay_status.put_statuses(tx, [replace(status, state_since=NOW + 2, subscriptions=6)])
        assert relay_status.statuses(tx) == [replace(status, subscriptions=6)]
        lost = RelayStatus(1, "wss://a.example", RelayState.DISCONNECTED, NOW + 3, 0, 0, 2, NOW + 99, "reset")
        relay_status.put_statuses(tx, [lost])
        assert relay_status.statuses(tx) == [lost]
        (candidate,) = relay_candidates.candidates(tx, discovered=False, limit=9)
        assert (candidate.failures, candidate.next_dial_at) == (2, NOW + 99)


def test_learned_limits_are_remembered(db: Database) -> None:
    with db.write() as tx:
        relays.set_bootstrap(tx, ["wss://a.example"], NOW)
        relay_status.put_limits(tx, 1, '{"max_pages":1}')
        assert relay_candidates.candidates(tx, discovered=False, limit=9)[0].limits == '{"max_pages":1}'


def test_ws_and_wss_of_one_host_share_their_namers(db: Database) -> None:
    """Whichever is named first; with a port of its own each is another listener."""
    with db.write() as tx:
        name(tx, "ws://a.example/x", 1)
        name(tx, "wss://a.example/x", 2)
        name(tx, "ws://a.example/x", 3)
        assert addresses(tx) == ["wss://a.example/x"]
        assert (namers(tx, "wss://a.example/x"), namers(tx, "ws://a.example/x")) == (3, 1)
        name(tx, "ws://b.example:8080", 1)
        name(tx, "wss://b.example:8080", 2)
        assert namers(tx, "ws://b.example:8080") == namers(tx, "wss://b.example:8080") == 1


def test_what_a_user_named_before_registering_is_a_users(db: Database) -> None:
    with db.write() as tx:
        name(tx, "wss://a.example", 5)
        name(tx, "wss://b.example", 6)
        relay_mentions.mark_mentioned_by_user(tx, 5)
        assert addresses(tx) == ["wss://a.example"]


def test_the_operator_decides_against_everybody(db: Database) -> None:
    with db.write() as tx:
        relays.set_bootstrap(tx, ["wss://boot.example"], NOW)
        for author in range(5):
            name(tx, "wss://popular.example", author)
        relays.set_operator(tx, "wss://mine.example", OperatorOverride.ADDED, NOW)
        assert addresses(tx, discovered=False) == ["wss://boot.example", "wss://mine.example"]
        for address in ("wss://boot.example", "wss://popular.example", "wss://mine.example"):
            relays.set_operator(tx, address, OperatorOverride.REMOVED, NOW)
        assert addresses(tx) == []
        relays.set_bootstrap(tx, ["wss://boot.example"], NOW)
        assert addresses(tx) == [], "settings do not bring back what was removed by hand"
        relays.set_operator(tx, "wss://popular.example", OperatorOverride.ADDED, NOW)
        assert [each.by_operator for each in relay_candidates.candidates(tx, discovered=False, limit=9)] == [True]


def test_novel_events_count_for_less_as_they_age(db: Database) -> None:
    with db.write() as tx:
        relays.set_bootstrap(tx, ["wss://a.example"], NOW)
        relay_candidates.add_first_seen(tx, {1: 100, 99: 5}, NOW)
        relay_candidates.add_first_seen(tx, {1: 10}, NOW + FIRST_SEEN_HALF_LIFE_MS)
        (found,) = relay_candidates.candidates(tx, discovered=False, limit=9)
        assert (round(found.novel, 6), found.novel_at) == (60.0, NOW + FIRST_SEEN_HALF_LIFE_MS)


def test_costs_add_up_and_record_when_a_relay_was_paced_and_cut_off(db: Database) -> None:
    def put(tx: Tx, at: int, *, is_forging: bool = False, is_paced: bool = False) -> tuple[int, int, int, int]:
        state = RelayState.DISCONNECTED if is_forging else RelayState.CONNECTED
        status = RelayStatus(1, "wss://a.example", state, NOW + at, 0, 0, 0, 0, "")
        relay_status.put_statuses(tx, [replace(status, is_forging=is_forging, is_paced=is_paced)])
        (found,) = relay_records.records(tx, everything=True, limit=9)
        return (found.forged, found.stranger_bytes, found.forged_at, found.paced_at)

    with db.write() as tx:
        relays.set_bootstrap(tx, ["wss://a.example"], NOW)
        relay_status.add_costs(tx, {1: RelayCost(forged=2, stranger_bytes=10), 99: RelayCost(1, 1)})
        relay_status.add_costs(tx, {1: RelayCost().plus(1, 5)})
        assert put(tx, 0) == (3, 15, 0, 0)
        assert put(tx, 10, is_paced=True) == (3, 15, 0, NOW + 10)
        assert put(tx, 20, is_paced=True) == (3, 15, 0, NOW + 10)
        assert put(tx, 30, is_forging=True) == (3, 15, NOW + 30, 0)
        assert put(tx, 40) == (3, 15, NOW + 30, 0)


def test_time_connected_and_not_is_added_up_when_a_state_ends(db: Database) -> None:
    def put(tx: Tx, state: RelayState, at: int) -> None:
        relay_status.put_statuses(tx, [RelayStatus(1, "wss://a.example", state, NOW + at, 0, 0, 0, 0, "")])

    with db.write() as tx:
        relays.set_bootstrap(tx, ["wss://a.example"], NOW)
        for state, at in (
            (RelayState.CONNECTED, 0), (RelayState.CONNECTED, 50), (RelayState.BACKPRESSURED, 100),
            (RelayState.CONNECTED, 150), (RelayState.DISCONNECTED, 200), (RelayState.CONNECTED, 1_200),
        ):  # fmt: skip
            put(tx, state, at)
        (found,) = relay_candidates.candidates(tx, discovered=False, limit=9)
        assert (found.connected_ms, found.disconnected_ms, found.is_connected) == (200, 1_000, True)


def test_what_a_relay_said_is_kept_without_what_a_terminal_obeys(db: Database) -> None:
    with db.write() as tx:
        relays.set_bootstrap(tx, ["wss://a.example"], NOW)
        relay_status.start_crawling(tx, [1], NOW)
        said = "restricted: \x1b[2Jgone\u202e\x9b31m"
        relay_status.put_statuses(tx, [RelayStatus(1, "", RelayState.CONNECTED, NOW, 0, 0, 0, 0, said)])
        (status,) = relay_status.statuses(tx)
    assert status.last_error == "restricted: \\u001b[2Jgone\\u202e\\u009b31m"
