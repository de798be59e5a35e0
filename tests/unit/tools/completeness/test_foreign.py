"""The world, the scenarios and the verdicts of trials of relays that others wrote."""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.factories.workload import newest_versions
from tests.tools.completeness.foreign import options, suite
from tests.tools.completeness.foreign.registry import RELAYS
from tests.tools.completeness.foreign.result import Cost, Missing, Phase, Result, as_value, table
from tests.tools.completeness.foreign.run import Plan
from tests.tools.completeness.foreign.shape import Order, Shape, late, mention
from tests.tools.completeness.foreign.subject import RelayCommand
from tests.tools.completeness.foreign.suite import CAPS, scenarios

ROOT = Path(__file__).parents[4]


def test_world_has_the_size_that_was_asked_for_and_two_thirds_are_relevant() -> None:
    shape = Shape(events=3_000)
    world = shape.world(3)
    made = shape.stored(world)
    assert len(made) == 3_000 == len({event.id for event in made})
    held = newest_versions(made)
    assert sum(world.is_wanted(event) for event in held) / len(held) == pytest.approx(0.66, abs=0.05)
    assert all(world.now - shape.reach_s < event.created_at <= world.now for event in held)


def test_dense_seconds_are_as_dense_as_asked() -> None:
    shape = Shape(events=500, dense=80, dense_author=70)
    seconds = Counter(event.created_at for event in shape.stored(shape.world(3)))
    assert [count for _, count in seconds.most_common(2)] == pytest.approx([80, 70], abs=2)


def test_events_are_given_in_order_of_arrival_or_in_none() -> None:
    shape = Shape(events=500, order=Order.ARRIVAL)
    world = shape.world(3)
    times = [event.created_at for event in shape.stored(world)]
    assert times == sorted(times)
    shuffled = [event.created_at for event in replace(shape, order=Order.SHUFFLED).stored(world)]
    assert shuffled != sorted(shuffled)


def test_late_events_and_mentions_lie_within_the_reach() -> None:
    shape = Shape()
    world = shape.world(3)
    events = [late(world) for _ in range(200)] + [mention(world, shape.mentions_s) for _ in range(200)]
    assert all(event.created_at > world.now - shape.reach_s for event in events)
    assert min(event.created_at for event in events) < world.now - 48 * 3600


def test_every_relay_is_tried_alone_with_each_cap_and_all_together() -> None:
    made = list(scenarios(RELAYS, Plan()))
    for relay in RELAYS:
        alone = [
            each.commands[0].name
            for each in made
            if len(each.commands) == 1 and each.commands[0].name[: len(relay.name)] == relay.name
        ]
        caps = [f"{relay.name}, cap {cap}" for cap in CAPS] if relay.cap else []
        assert set(caps) <= set(alone)
        assert alone.count(relay.name) >= 5
    assert len(made[-1].commands) == len(RELAYS)


def test_bound_that_a_relay_does_not_have_is_refused() -> None:
    relays = next(relay for relay in RELAYS if relay.name == "relays")
    with pytest.raises(ValueError, match="no cap"):
        relays.variant(cap=20)
    with pytest.raises(ValueError, match="no strict settings"):
        relays.variant(strict=True)


def test_missing_event_is_good_only_where_it_was_reported() -> None:
    cost = Cost(0, 0, {"REQ": 3}, 0.0, 0.0)
    reported = Missing("aa", 1, 5, "a mention", is_told=True)
    silent = Missing("bb", 7, 6, "a mention", is_told=False)
    good = Result("it", [Phase("backfill", 10, [reported], {"dense-second": 1}, 1.0, cost)])
    bad = Result("it", [Phase("backfill", 10, [reported, silent], {}, 1.0, cost)])
    assert good.is_good
    assert not bad.is_good
    assert "0.8000" in table([bad])
    assert "kind 7, a mention, of 6: bb" in table([bad])
    assert json.loads(json.dumps(as_value(bad)))["phases"][0]["cost"]["messages"] == {"REQ": 3}


@pytest.mark.parametrize("error", [ConnectionRefusedError("gone"), TimeoutError("silent")])
def test_relay_that_fails_ends_no_other_trial(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[str] = []

    def together(commands: Sequence[RelayCommand], *_: object) -> list[Result]:
        played.append(commands[0].name)
        if len(played) == 1:
            raise error
        return [Result(command.name) for command in commands]

    monkeypatch.setattr(suite, "together", together)
    monkeypatch.setattr(suite, "RELAYS", [replace(RELAYS[0], needs=None)])
    first, *others = suite.run(1, Plan())
    assert not first.is_good
    assert type(error).__name__ in table([first])
    assert len(others) == len(played) - 1 > 3
    assert all(each.is_good for each in others)


def test_relay_option_takes_a_name_and_a_command() -> None:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    (relay,) = parser.parse_args(["--relay", "it=run --port={port}"]).relay
    assert (relay.name, relay.command) == ("it", "run --port={port}")
    with pytest.raises(SystemExit):
        parser.parse_args(["--relay", "run"])


def test_every_script_that_starts_a_peer_is_there() -> None:
    for relay in RELAYS:
        for word in relay.command.split():
            if word.startswith("{root}/tests/"):
                assert (ROOT / word.removeprefix("{root}/")).is_file()
