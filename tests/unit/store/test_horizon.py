"""How far back ids are kept for the sake of relays that are away."""

import pytest

from pipeline.store import cursors, relay_mentions, relay_status, relays
from pipeline.store.cursors import Cursor
from pipeline.store.database import Database, Tx
from pipeline.store.horizon import seen_before
from pipeline.store.relay_status import RelayState, RelayStatus
from pipeline.store.relays import OperatorOverride

DAY = 86_400_000
NOW = 20_000 * DAY
AWAY = "wss://away.example"


def horizon(tx: Tx, *, most: int = 180) -> float:
    """In days before now."""
    return (NOW - seen_before(tx, NOW, retention=30 * DAY, most=most * DAY, resweep_window=3 * DAY)) / DAY


def relay(tx: Tx, address: str, state: RelayState, *, days_ago: int, owed: int = 0, **at: int) -> int:
    """A relay in a state since so many days ago, its cursors by query, and since when it is owed, in days ago."""
    relay_mentions.record_mention(tx, address, source="hint", author=1, is_user=True, now=NOW)
    number = relays.find(tx, address)
    assert number is not None
    since = owed and (NOW - owed * DAY) // 1000
    status = RelayStatus(number, address, state, NOW - days_ago * DAY, 0, 0, 0, 0, "", owed_since=since)
    relay_status.put_statuses(tx, [status])
    moved = [Cursor(number, f"{query}/", (NOW - days * DAY) // 1000, 1) for query, days in at.items()]
    cursors.advance(tx, moved, NOW // 1000)
    return number


def test_without_relays_that_are_behind_it_is_the_setting(db: Database) -> None:
    with db.write() as tx:
        assert horizon(tx) == 30
        relay(tx, "wss://up.example", RelayState.CONNECTED, days_ago=90, authors=0, mentions=0)
        assert horizon(tx) == 30


def test_a_relay_that_is_away_keeps_ids_from_days_before_its_cursor(db: Database) -> None:
    with db.write() as tx:
        relay(tx, "wss://up.example", RelayState.CONNECTED, days_ago=1, authors=0)
        relay(tx, AWAY, RelayState.DISCONNECTED, days_ago=29, authors=29, mentions=40)
        assert horizon(tx) == 32
        assert horizon(tx, most=31) == 31


@pytest.mark.parametrize(
    ("override", "days"), [(None, 30), (OperatorOverride.ADDED, 43), (OperatorOverride.REMOVED, 30)]
)
def test_relay_away_for_longer_is_awaited_only_if_the_operator_names_it(
    db: Database, override: OperatorOverride | None, days: int
) -> None:
    with db.write() as tx:
        relay(tx, AWAY, RelayState.DISCONNECTED, days_ago=40, authors=40)
        if override is not None:
            relays.set_operator(tx, AWAY, override, NOW)
        assert horizon(tx) == days


def test_cursors_of_old_chunks_and_of_resweeps_hold_nothing_back(db: Database) -> None:
    with db.write() as tx:
        number = relay(tx, AWAY, RelayState.CONNECTED, days_ago=1, authors=0)
        old = [Cursor(number, query, (NOW - 100 * DAY) // 1000, 1) for query in ("authors/01", "resweep:authors/")]
        cursors.advance(tx, old, NOW // 1000)
        assert horizon(tx) == 30


def test_a_relay_that_is_back_keeps_ids_until_its_absence_is_made_up_for(db: Database) -> None:
    with db.write() as tx:
        relay(tx, AWAY, RelayState.CONNECTED, days_ago=0, owed=40, authors=0)
        assert horizon(tx) == 43
        relay(tx, AWAY, RelayState.CONNECTED, days_ago=0, authors=0)
        assert horizon(tx) == 30


def test_what_a_relay_owes_for_good_is_not_waited_for(db: Database) -> None:
    with db.write() as tx:
        relay(tx, AWAY, RelayState.CONNECTED, days_ago=31, owed=40, authors=0)
        assert horizon(tx) == 30
