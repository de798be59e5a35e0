"""Spellings of relay addresses: which is dialled, and that strangers cannot make many of them."""

import pytest

from pipeline.nostr.address import InvalidAddress
from pipeline.store import relay_candidates, relay_mentions, relay_pruning, relay_records, relay_status, relays
from pipeline.store.database import Database, Tx
from pipeline.store.relay_status import RelayState, RelayStatus
from pipeline.store.relays import OperatorOverride
from pipeline.store.spellings import MAX_SPELLERS, MAX_SPELLINGS

NOW = 1_700_000_000_000
BARE, SLASH, TWO = "wss://a.example/relay", "wss://a.example/relay/", "wss://a.example/relay//"


def name(tx: Tx, spelling: str, author: int, now: int = NOW) -> None:
    relay_mentions.record_mention(tx, spelling, source="relay-list", author=author, is_user=True, now=now)


def dialled(tx: Tx) -> list[str]:
    found = relay_candidates.candidates(tx, discovered=True, limit=9)
    return [candidate.spelling or candidate.address for candidate in found]


def note_missing(tx: Tx, spelling: str, now: int) -> None:
    lost = RelayStatus(
        1, BARE, RelayState.DISCONNECTED, now, 0, 0, 1, 0, "HTTP status 404", dialled=spelling, is_missing=True
    )
    relay_status.put_statuses(tx, [lost])


def test_the_spelling_that_most_authors_use_is_dialled(db: Database) -> None:
    with db.write() as tx:
        name(tx, BARE, 1)
        assert dialled(tx) == [BARE]
        for author in (1, 2, 2, 2):
            name(tx, SLASH, author)
        assert dialled(tx) == [SLASH]
        for author in (3, 4):
            name(tx, BARE, author)
        assert dialled(tx) == [BARE]
        assert relays.count(tx) == 1


def test_a_row_of_before_keeps_its_canonical_form_until_it_is_named(db: Database) -> None:
    with db.write() as tx:
        tx.execute(
            "INSERT INTO relays (address, source, first_seen, last_seen, namers) VALUES (?, 'hint', 0, 0, 9)", (BARE,)
        )
        assert dialled(tx) == [BARE]
        name(tx, SLASH, 99)
        assert dialled(tx) == [SLASH]


def test_the_operators_spelling_comes_before_all_others(db: Database) -> None:
    with db.write() as tx:
        for author in range(5):
            name(tx, SLASH, author)
        relays.set_operator(tx, TWO, OperatorOverride.ADDED, NOW)
        assert dialled(tx) == [TWO]
        relays.set_bootstrap(tx, [BARE], NOW)
        assert dialled(tx) == [BARE]
        assert relay_records.records(tx, everything=True, limit=9)[0].dialled == BARE


def test_where_nothing_is_found_the_next_is_dialled_and_what_answers_stays(db: Database) -> None:
    with db.write() as tx:
        relays.set_bootstrap(tx, [TWO], NOW)
        for author in range(2):
            name(tx, SLASH, author)
        tried = []
        for step in range(4):
            (spelling,) = dialled(tx)
            tried.append(spelling)
            note_missing(tx, spelling, NOW + step)
        assert tried == [TWO, SLASH, BARE, TWO], "the canonical form is among them, and then it begins again"
        connected = RelayStatus(1, BARE, RelayState.CONNECTED, NOW + 9, 0, 0, 0, 0, "", dialled=SLASH)
        relay_status.put_statuses(tx, [connected])
        name(tx, "wss://a.example/./relay", 77)
        assert dialled(tx) == [SLASH], "what a stranger writes does not displace what answers"


def test_strangers_cannot_make_many_rows_nor_drive_out_what_is_in_use(db: Database) -> None:
    with db.write() as tx:
        for author in range(3):
            name(tx, SLASH, author)
        for number in range(100):
            name(tx, BARE + "/" * (number + 2), 1000 + number, NOW + number)
        assert tx.execute("SELECT count(*) FROM relay_spellings").get == MAX_SPELLINGS
        assert tx.execute("SELECT count(*) FROM relay_spellers").get == 3 + MAX_SPELLINGS - 1
        assert dialled(tx) == [SLASH]
        for author in range(2 * MAX_SPELLERS):
            name(tx, SLASH, author)
        assert tx.execute("SELECT max(authors) FROM relay_spellings").get == MAX_SPELLERS
        assert tx.execute("SELECT count(*) FROM relay_spellers").get == MAX_SPELLERS + MAX_SPELLINGS - 1


def test_spellings_go_with_their_relay(db: Database) -> None:
    with db.write() as tx:
        relay_mentions.record_mention(tx, SLASH, source="hint", author=1, is_user=False, now=NOW)
        relay_mentions.record_mention(tx, "wss://newer.example", source="hint", author=2, is_user=False, now=NOW)
        assert relay_pruning.forget_unanswered(tx, 10) == 1
        assert tx.execute("SELECT spelling FROM relay_spellings").fetchall() == [("wss://newer.example",)]
        assert tx.execute("SELECT author FROM relay_spellers").fetchall() == [(2,)]


def test_ws_spelling_counts_for_the_wss_address_of_both(db: Database) -> None:
    with db.write() as tx:
        name(tx, BARE, 1)
        name(tx, "ws://a.example/relay/", 2)
        name(tx, "ws://a.example/relay/", 3)
        assert dialled(tx) == [SLASH]
        name(tx, "ws://a.example:80/relay///", 4)
        assert "wss://a.example:80/relay///" not in {
            row[0] for row in tx.execute("SELECT spelling FROM relay_spellings")
        }


def test_names_that_differ_in_idna_2008_only_are_two_relays(db: Database) -> None:
    with db.write() as tx:
        name(tx, "wss://strasse.de", 1)
        name(tx, "wss://straße.de/", 2)
        addresses = [each.address for each in relay_candidates.candidates(tx, discovered=True, limit=9)]
        assert addresses == ["wss://strasse.de", "wss://xn--strae-oqa.de"]
        assert dialled(tx) == ["wss://strasse.de", "wss://straße.de/"]


def test_what_is_no_address_is_refused(db: Database) -> None:
    with db.write() as tx, pytest.raises(InvalidAddress):
        name(tx, "wss://", 1)
