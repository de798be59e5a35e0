"""`event-service relays`, as an operator uses it."""

import json
from pathlib import Path

import pytest

from pipeline.process.clock import SystemClock
from pipeline.relay.limits import RelayLimits
from pipeline.store import relay_candidates, relay_mentions, relay_status
from pipeline.store.relay_status import RelayState, RelayStatus
from pipeline.store.schema import open_database
from tests.integration.commands.operator import Operator

NOW = 1_700_000_000_000


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """A database with a relay that is crawled, one that two authors named and one that a single author did."""
    path = tmp_path / "events.db"
    with open_database(path, SystemClock()) as database, database.write() as tx:
        for address, namers in (("wss://good.example", 3), ("wss://new.example", 2), ("wss://rumour.example", 1)):
            for author in range(namers):
                relay_mentions.record_mention(tx, address, source="relay-list", author=author, is_user=False, now=NOW)
        relay_status.start_crawling(tx, [1], NOW)
        relay_candidates.add_first_seen(tx, {1: 70}, NOW)
        status = RelayStatus(
            1, "wss://good.example", RelayState.CONNECTED, NOW, 4, 0, 0, 0, "", "whole", owed_since=NOW // 1000
        )
        relay_status.put_statuses(tx, [status])
        relay_status.put_limits(tx, 1, RelayLimits(live_missed_at=NOW // 1000).to_json())
    return Operator(path)


def test_relays_are_listed_the_best_first(operator: Operator) -> None:
    crawled = operator.succeed("relays", "list").splitlines()
    assert len(crawled) == 1
    assert crawled[0].split() == [
        "connected", "whole", "70", "first", "-", "up", "3", "namers", "relay-list", "wss://good.example"
    ]  # fmt: skip
    everything = [json.loads(line) for line in operator.succeed("relays", "list", "--all", "--json").splitlines()]
    assert [each["address"] for each in everything] == [
        "wss://good.example", "wss://new.example", "wss://rumour.example"
    ]  # fmt: skip


def test_one_is_shown_whichever_way_its_address_is_written(operator: Operator) -> None:
    shown = json.loads(operator.succeed("relays", "show", "GOOD.example/", "--json"))
    assert (shown["address"], shown["state"], shown["subscriptions"]) == ("wss://good.example", "connected", 4)
    assert shown["crawled_since"] == shown["live_missed_at"] == shown["owed_since"] == "2023-11-14T22:13:20Z"
    assert "namers           3" in operator.succeed("relays", "show", "wss://good.example").splitlines()
    assert "not known" in operator.fail("relays", "show", "wss://nobody.example")


def test_added_and_removed_ones_stay_so(operator: Operator) -> None:
    operator.succeed("relays", "add", "wss://mine.example", "rumour.example")
    operator.succeed("relays", "remove", "wss://new.example")
    with open_database(operator.path, SystemClock()) as database, database.read() as tx:
        candidates = [each.address for each in relay_candidates.candidates(tx, discovered=True, limit=9)]
        assert candidates == ["wss://rumour.example", "wss://mine.example", "wss://good.example"]
    assert "removed" in operator.succeed("relays", "list").split("wss://new.example")[0].splitlines()[-1]
    operator.succeed("relays", "add", "wss://new.example")
    assert "removed" not in operator.succeed("relays", "list")


def test_how_to_ask_is_for_known_relays(operator: Operator) -> None:
    assert operator.succeed("relays", "ask", "whole", "wss://good.example").strip() == "wss://good.example: whole"
    assert json.loads(operator.succeed("relays", "show", "wss://good.example", "--json"))["ask"] == "whole"
    assert "add it first" in operator.fail("relays", "ask", "query", "wss://nobody.example")
    operator.fail("relays", "ask", "nicely", "wss://good.example", code=2)


@pytest.mark.parametrize("address", ["", "not an address", "ftp://x.example"])
def test_what_is_no_address_is_wrong_usage(operator: Operator, address: str) -> None:
    assert "no relay address" in operator.fail("relays", "add", address, code=2)
