"""Which relay addresses are forgotten, and that nobody who invents them keeps others from being learned."""

from pipeline.store import relay_candidates, relay_mentions, relay_pruning, relay_records, relay_status, relays, users
from pipeline.store.database import Database, Tx
from pipeline.store.relay_mentions import MentionOutcome
from pipeline.store.relay_pruning import MAX_MENTIONED, MAX_MENTIONS, MAX_MONITORED, Crowded
from pipeline.store.relay_status import RelayState, RelayStatus
from pipeline.store.relays import OperatorOverride

NOW = 1_700_000_000_000
HONEST = "wss://honest.example"


def name(
    tx: Tx, address: str, author: int, *, is_user: bool = False, now: int = NOW, source: str = "hint"
) -> MentionOutcome:
    return relay_mentions.record_mention(tx, address, source=source, author=author, is_user=is_user, now=now)


def known(tx: Tx) -> set[str]:
    return {each.address for each in relay_records.records(tx, everything=True, limit=100_000)}


def prune(db: Database, most: int = relay_pruning.MAX_UNANSWERED) -> None:
    """What the sweeper does."""
    with db.write() as tx:
        for author in relay_pruning.crowded(tx):
            relay_pruning.prune_mentions(tx, author, author.surplus)
        relay_pruning.forget_unanswered(tx, relay_pruning.unanswered_surplus(tx, most))


def test_620_relay_lists_of_one_user_keep_no_honest_relay_unlearned(db: Database) -> None:
    """A registered key of which nothing else is known, and the sweeper once in a while."""
    with db.write() as tx:
        users.register(tx, bytes(32), NOW)
    for number in range(620):
        with db.write() as tx:
            for relay in range(100):
                name(tx, f"wss://r{number}-{relay}.example", 1, is_user=True, now=NOW + number)
            assert relays.count(tx) <= 2 * MAX_MENTIONED
        if number % 50 == 0:
            prune(db)
    with db.write() as tx:
        assert name(tx, HONEST, 2, is_user=True) is MentionOutcome.NEW
    prune(db)
    with db.read() as tx:
        candidates = [each.address for each in relay_candidates.candidates(tx, discovered=True, limit=100_000)]
        assert HONEST in candidates
        assert relays.count(tx) == MAX_MENTIONED + 1
        assert "wss://r0-0.example" not in known(tx), "the author's oldest made room"


def test_author_with_too_many_mentions_is_refused_until_swept(db: Database) -> None:
    with db.write() as tx:
        name(tx, HONEST, 9)
        for number in range(2 * MAX_MENTIONED):
            assert name(tx, f"wss://r{number}.example", 1) is MentionOutcome.NEW
        assert name(tx, "wss://more.example", 1) is MentionOutcome.REFUSED
        assert name(tx, HONEST, 1, is_user=True) is MentionOutcome.REFUSED
        assert name(tx, "wss://r1.example", 1) is MentionOutcome.KNOWN, "to repeat oneself costs nothing"
        assert tx.execute("SELECT namers, named_by_user FROM relays WHERE address = ?", (HONEST,)).fetchall() == [
            (1, 0)
        ]
        assert relay_pruning.crowded(tx) == [Crowded(1, False, MAX_MENTIONED)]
    prune(db)
    with db.write() as tx:
        assert name(tx, "wss://more.example", 1) is MentionOutcome.NEW


def test_address_that_others_name_stays_when_one_author_yields(db: Database) -> None:
    with db.write() as tx:
        users.register(tx, bytes(32), NOW)
        name(tx, HONEST, 7)
        name(tx, HONEST, 1, is_user=True)
        answered = "wss://answered.example"
        name(tx, answered, 7, is_user=True)
        number = relays.find(tx, answered)
        assert number is not None
        relay_status.put_statuses(tx, [RelayStatus(number, answered, RelayState.CONNECTED, NOW, 0, 0, 0, 0, "")])
        for number in range(MAX_MENTIONED):
            name(tx, f"wss://r{number}.example", 7)
    prune(db)
    with db.read() as tx:
        found = tx.execute("SELECT address, namers, named_by_user FROM relays ORDER BY id LIMIT 3").fetchall()
        assert found == [(HONEST, 1, 1), (answered, 1, 1), ("wss://r1.example", 1, 0)]


def test_monitor_has_a_bound_of_its_own_and_renews_what_is_known(db: Database) -> None:
    """Its reports make no relay a user's, and leave room for what it names otherwise."""
    with db.write() as tx:
        name(tx, HONEST, 9)
        for number in range(2 * MAX_MONITORED):
            address = f"wss://r{number}.example"
            assert name(tx, address, 1, source="monitor", is_user=True) is MentionOutcome.NEW
        assert name(tx, "wss://more.example", 1, source="monitor") is MentionOutcome.REFUSED
        relay_mentions.record_mention(tx, HONEST, source="monitor", author=1, is_user=True, now=NOW, seen_up_at=NOW)
        assert tx.execute("SELECT seen_up_at FROM relays WHERE address = ?", (HONEST,)).get == NOW
        assert name(tx, "wss://hint.example", 1) is MentionOutcome.NEW
        assert tx.execute("SELECT sum(named_by_user) FROM relays").get == 0
        relay_mentions.mark_mentioned_by_user(tx, 1)
        assert tx.execute("SELECT address FROM relays WHERE named_by_user").fetchall() == [("wss://hint.example",)]
        assert relay_pruning.crowded(tx) == [Crowded(1, True, MAX_MONITORED)]


def test_unanswered_relays_displace_each_other_however_often_mentioned(db: Database) -> None:
    """What answered, what the operator decided and the bootstrap relays stay."""
    with db.write() as tx:
        relays.set_bootstrap(tx, ["wss://boot.example"], NOW)
        for number in range(20):
            for author in range(MAX_MENTIONS):
                name(tx, f"wss://r{number}.example", author, is_user=True, now=NOW + number)
        relays.set_operator(tx, "wss://r2.example", OperatorOverride.REMOVED, NOW)
        numbers = {each.address: each.relay for each in relay_records.records(tx, everything=True, limit=100)}
        relay_status.start_crawling(tx, numbers.values(), NOW)
        for address in ("wss://r3.example", "wss://r4.example"):
            relay_status.put_statuses(
                tx, [RelayStatus(numbers[address], address, RelayState.CONNECTED, NOW, 0, 0, 0, 0, "")]
            )
        gone = RelayStatus(numbers["wss://r4.example"], "", RelayState.DISCONNECTED, NOW + 9, 0, 0, 0, 0, "reset")
        relay_status.put_statuses(tx, [gone])
    prune(db, 2)
    with db.read() as tx:
        assert known(tx) == {"wss://boot.example", *(f"wss://r{n}.example" for n in (2, 3, 4, 18, 19))}
        assert tx.execute("SELECT count(DISTINCT relay) FROM relay_namers").get == 5


def test_relay_just_added_is_no_victim_and_no_number_is_given_twice(db: Database) -> None:
    """Even where the clock was set back."""
    used: set[int] = set()
    for number in range(5):
        with db.write() as tx:
            address = f"wss://r{number}.example"
            name(tx, address, number, now=NOW - number)
            relay = relays.find(tx, address)
            assert relay is not None
            assert relay not in used
            used.add(relay)
        prune(db, 0)
        with db.read() as tx:
            assert known(tx) == {address}


def test_status_of_a_forgotten_relay_leaves_nothing_behind(db: Database) -> None:
    lost = RelayStatus(
        77, "wss://a.example", RelayState.DISCONNECTED, NOW, 0, 0, 1, 0, "404", dialled="wss://a.example",
        is_missing=True,
    )  # fmt: skip
    with db.write() as tx:
        relay_status.put_statuses(tx, [lost])
        assert tx.execute("SELECT count(*) FROM relay_spellings").get == 0
