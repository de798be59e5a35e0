"""Relays that others wrote are seen as their settings say."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time

import pytest

from pipeline.probe.interview import Pace
from pipeline.probe.observation import Observation
from tests.factories.events import Author, SignedEvent
from tests.fakes.command_relay import CommandRelay
from tests.fakes.independent_relay import IndependentRelay
from tests.fakes.publisher import publish_events
from tests.integration.probe.test_probe import by_name, probed
from tests.tools.completeness.foreign.registry import QUICK

# Neither of them answers anything with silence, which a slow machine might be taken for.
PACE = Pace(patience_s=60.0, watch_s=0.0, pause_s=0.02, settle_s=0.1)
NOW = int(time())
CORE = next(each for each in QUICK if each.name == "core-validator")


def events(count: int) -> list[SignedEvent]:
    people = [Author.from_seed(13, number) for number in range(6)]
    return [
        people[number % 6].sign(
            f"note {number}", kind=(1, 1, 7, 1984)[number % 4], created_at=NOW - 1000 - 30 * number,
            tags=[("p", people[(number + 1) % 6].pubkey), ("e", f"{number % 9:064x}")],
        )
        for number in range(count)
    ]  # fmt: skip


def values(seen: dict[str, Observation], expected: dict[str, object]) -> dict[str, object]:
    return {name: seen[name].value for name in expected}


def test_local_relay_is_seen_by_its_settings(tmp_path: Path) -> None:
    with IndependentRelay(lmdb=tmp_path / "lmdb", max_limit=100, max_reqs=1_000) as relay:
        relay.load(events(150))
        seen = by_name(probed(relay.url, PACE, writes=True))
    expected = {
        "page.order": "newest first", "page.limit_keeps": "the newest", "page.limit_zero": "EOSE, no stored event",
        "border.since_author": "inclusive", "border.until_author": "inclusive",
        "limit.page": 100, "limit.filters": 20, "limit.id_length": 250, "limit.authors": 1_000,
        "form.p_tag_times": "whole", "form.second_tag_value": "searched", "form.limit_of_filters": "each its own",
        "subscription.open_id_serves": "the second alone",
        "live.note": "delivered", "live.limit_zero": "delivered", "live.ephemeral": "delivered",
        "write.note": "accepted", "write.wrong_signature": "refused", "write.deletion": "honoured",
        "nip77.compares": "right",
    }  # fmt: skip
    assert values(seen, expected) == expected
    assert (seen["limit.authors"].is_least, seen["limit.filters"].how) == (True, "CLOSED")


@contextmanager
def core_relay(folder: Path) -> Iterator[CommandRelay]:
    variant = CORE.variant(strict=True)
    with CommandRelay(variant.command, folder, env=variant.env) as relay:
        publish_events(relay.url, events(60))
        yield relay


@pytest.mark.skipif(not CORE.is_installed, reason="@nostr-relay/core: not installed")
def test_core_with_validator_is_seen_by_its_settings(tmp_path: Path) -> None:
    """Its bounds are those of `strict` in the registry; its cap is ten times the default limit."""
    with core_relay(tmp_path / "relay") as relay:
        seen = by_name(probed(relay.url, PACE))
    expected = {
        "limit.kinds": 5, "limit.authors": 50, "limit.ids": 50, "limit.tag_values": 16, "limit.id_length": 32,
        "page.no_limit": 10, "page.order": "newest first", "border.until_author": "inclusive",
        "form.authors": "whole", "live.note": None,
    }  # fmt: skip
    assert values(seen, expected) == expected
    assert seen["limit.kinds"].how == "NOTICE"
    assert '5 kinds at "[2].kinds"' in seen["limit.kinds"].says
