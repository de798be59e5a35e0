"""What a relay allows: learned from refusals, tried anew after long, within reason, and remembered as JSON."""

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.relay.advertised import AdvertisedLimits, advertised_limits
from pipeline.relay.dimensions import (
    DOUBT_SILENCE_AFTER_S,
    MAX_WIDEN_AFTER_S,
    WIDEN_AFTER_S,
    Bound,
    Dimension,
    Source,
)
from pipeline.relay.limits import (
    BYTES_PER_FILTER,
    BYTES_PER_KIND,
    BYTES_PER_MEMBER,
    INFORMATION_AGE_S,
    LEAST_FRAME_BYTES,
    LEAST_SEEN_BYTES,
    MOST,
    RelayLimits,
)

BOUNDS = tuple(each.value for each in Dimension)
DATED = st.integers(0, 2**40)
ANY_LIMITS = st.builds(
    RelayLimits,
    max_subscriptions=st.integers(1, 18),
    max_pages=st.integers(1, 3),
    max_filters=st.integers(1, 10),
    max_kinds=st.integers(1, 320),
    max_authors=st.integers(1, 250),
    max_ids=st.integers(1, 250),
    max_tag_values=st.integers(1, 250),
    page_limit=st.integers(1, 500),
    max_frame_bytes=st.integers(1, 120_000),
    bounds=st.lists(
        st.builds(Bound, st.sampled_from(Dimension), st.sampled_from(Source), DATED, DATED, DATED),
        unique_by=lambda each: each.dimension,
    ).map(lambda them: tuple(sorted(them, key=lambda each: each.dimension))),
    refused_kinds=st.sets(st.integers(0, 65_535), max_size=5).map(lambda kinds: tuple(sorted(kinds))),
    until_exclusive=st.booleans(),
    since_exclusive=st.booleans(),
    needs_kinds=st.booleans(),
    zero_is_all=st.booleans(),
    informed_at=st.integers(0, 2**40),
)


def test_the_defaults_are_what_every_relay_in_wide_use_accepts() -> None:
    """20 subscriptions on old strfry less two, 10 filters, 500 events, 131,072 bytes."""
    limits = RelayLimits()
    assert limits.max_subscriptions <= 18
    assert limits.max_filters <= 10
    assert limits.max_kinds <= 10
    assert {limits.max_authors, limits.max_ids, limits.max_tag_values} == {250}
    assert limits.page_limit == 500
    assert limits.max_frame_bytes < 131_072
    assert 1 <= limits.max_pages < limits.max_subscriptions


@given(ANY_LIMITS, st.sampled_from(Dimension), st.integers(0, 600), st.sampled_from(Source))
def test_each_dimension_is_narrowed_by_itself_and_never_below_one(
    limits: RelayLimits, dimension: Dimension, to: int, source: Source
) -> None:
    for narrowed in (limits.narrowed(dimension, to, source), limits.halved(dimension, to, source)):
        assert narrowed.of(dimension) >= 1
        assert narrowed.of(dimension) <= limits.of(dimension) or dimension is Dimension.KINDS
        changed = {each for each in Dimension if narrowed.of(each) != limits.of(each)}
        assert changed <= {dimension}
        assert {each for each in narrowed.bounds if each.dimension is not dimension} <= set(limits.bounds)


def test_too_many_subscriptions_leaves_one_less_than_were_open() -> None:
    limits = RelayLimits().fewer_subscriptions(5)
    assert (limits.max_subscriptions, limits.max_pages) == (4, 3)
    assert limits.fewer_subscriptions(10) == limits
    assert limits.fewer_subscriptions(2).max_pages == 1
    assert limits.fewer_subscriptions(1).max_subscriptions == 1


def document(**limitation: int) -> AdvertisedLimits:
    return advertised_limits({"limitation": limitation})


def test_what_a_document_says_narrows_and_never_widens() -> None:
    said = RelayLimits().with_advertised(
        document(max_subscriptions=10, max_limit=100, max_message_length=65_536, max_filters=3)
    )
    assert (said.max_subscriptions, said.page_limit, said.max_frame_bytes, said.max_filters) == (8, 100, 65_536, 3)
    assert {each.source for each in said.bounds} == {Source.DOCUMENT}
    generous = document(max_subscriptions=50_000, max_limit=5_000_000, max_message_length=10**9, max_filters=1_000)
    assert RelayLimits().with_advertised(generous) == RelayLimits()
    assert RelayLimits().with_advertised(AdvertisedLimits()) == RelayLimits()
    assert (
        RelayLimits().with_advertised(document(max_subscriptions=0, max_limit=0, max_message_length=0)) == RelayLimits()
    )


@pytest.mark.parametrize(
    "text",
    [
        {"limitation": {"max_filters": 3}},
        {"limitation.max_filters": 3},
        {"max_filters": 3},
        {"limitation": {"max_filters": "many"}, "max_filters": 3},
        {"limitation": {"max_filters": 3}, "max_filters": 30},
    ],
)
def test_a_limit_is_found_wherever_documents_have_it(text: dict[str, object]) -> None:
    assert RelayLimits().with_advertised(advertised_limits(text)).max_filters == 3


@pytest.mark.parametrize(("said", "used", "pages"), [(1, 1, 1), (2, 2, 1), (3, 3, 2), (4, 3, 2), (20, 18, 3)])
def test_of_few_subscriptions_none_is_spared(said: int, used: int, pages: int) -> None:
    """One is live where there are two."""
    limits = RelayLimits().with_advertised(document(max_subscriptions=said))
    assert (limits.max_subscriptions, limits.max_pages) == (used, pages)


@pytest.mark.parametrize("message_bytes", [2_000, 16_384, 65_536, 131_072])
def test_a_request_for_a_whole_chunk_fits_what_the_relay_takes(message_bytes: int) -> None:
    """16,384 bytes are advertised here and there; 250 keys of 67 bytes are more, and such a relay hangs up on them."""
    limits = RelayLimits().with_advertised(document(max_message_length=message_bytes))
    page = BYTES_PER_FILTER + limits.max_kinds * BYTES_PER_KIND + BYTES_PER_MEMBER * limits.members_that_fit
    assert page <= message_bytes
    assert page > message_bytes - BYTES_PER_MEMBER or limits.members_that_fit > limits.max_authors


@given(ANY_LIMITS)
def test_limits_survive_a_restart(limits: RelayLimits) -> None:
    assert RelayLimits.from_json(limits.to_json()) == limits


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        "{}",
        '{"max_pages":0}',
        '{"max_pages":"3"}',
        '{"max_pages":true}',
        '{"max_pages":2.0}',
    ],
)
def test_what_cannot_be_read_is_as_if_nothing_had_been_learned(text: str) -> None:
    assert RelayLimits.from_json(text) == RelayLimits()


def test_what_can_be_read_of_a_row_is_kept() -> None:
    """A newer version may have written more, an older one less."""
    text = orjson.dumps({"max_pages": 1, "until_exclusive": True, "page_limit": -5, "flavour": "lemon"}).decode()
    assert RelayLimits.from_json(text) == replace(RelayLimits(), max_pages=1, until_exclusive=True)


def test_the_document_is_looked_at_once_a_day() -> None:
    now = 1_700_000_000
    assert RelayLimits().is_stale(now)
    known = RelayLimits().with_nip11_fetched_at(now)
    assert not known.is_stale(now + INFORMATION_AGE_S - 1)
    assert known.is_stale(now + INFORMATION_AGE_S)


def test_request_that_ended_the_connection_is_halved_down_to_a_floor() -> None:
    limits = RelayLimits()
    for size in (100_000, 40_000, 10_000, 5_000, 4_000):
        smaller = limits.below(size)
        assert smaller.max_frame_bytes == max(LEAST_FRAME_BYTES, min(limits.max_frame_bytes, size // 2))
        limits = smaller
    assert limits.members_that_fit > 50


def test_requests_shrink_as_far_as_needed_where_smaller_ones_were_answered() -> None:
    limits = RelayLimits().below(6_000, answered=500)
    assert limits.max_frame_bytes == 3_000
    assert limits.below(3_000, answered=500).below(1_500, answered=500).max_frame_bytes == LEAST_SEEN_BYTES
    assert limits.below(3_000, answered=2_500).max_frame_bytes == 2_500


NOW = 1_700_000_000
DAY = WIDEN_AFTER_S


def sizes(limits: RelayLimits) -> list[int]:
    return [getattr(limits, name) for name in BOUNDS]


def refused(
    limits: RelayLimits, dimension: Dimension, to: int, now: int, source: Source = Source.REFUSAL
) -> RelayLimits:
    return limits.narrowed(dimension, to, source).dated(limits, now)


def test_what_refusals_taught_is_doubted_after_a_day_step_by_step() -> None:
    limits = refused(refused(RelayLimits(), Dimension.AUTHORS, 60, NOW), Dimension.SUBSCRIPTIONS, 4, NOW)
    assert limits.relaxed(NOW + DAY - 1) == limits
    wider = limits.relaxed(NOW + DAY)
    assert (wider.max_authors, wider.max_subscriptions) == (120, 8)
    assert wider.relaxed(NOW + DAY + 1) == wider
    for day in range(2, 10):
        wider = wider.relaxed(NOW + day * DAY)
    assert sizes(wider) == sizes(RelayLimits())


def test_each_dimension_is_tried_again_in_its_own_time() -> None:
    limits = refused(refused(RelayLimits(), Dimension.AUTHORS, 60, NOW), Dimension.FILTERS, 2, NOW + DAY // 2)
    wider = limits.relaxed(NOW + DAY)
    assert (wider.max_authors, wider.max_filters) == (120, 2)


def test_a_relay_that_refuses_more_each_time_is_tried_ever_more_rarely() -> None:
    """Its limits do not flap."""
    now, trials = NOW, 0
    limits = refused(RelayLimits(), Dimension.AUTHORS, 125, now)
    while now < NOW + 300 * DAY:
        now += DAY
        tried = limits.relaxed(now)
        if tried != limits:
            trials += 1
            limits = refused(tried, Dimension.AUTHORS, 125, now)
    assert trials <= 15
    bound = limits.bound(Dimension.AUTHORS)
    assert bound is not None
    assert bound.widen_after == MAX_WIDEN_AFTER_S


def test_what_silence_taught_is_doubted_within_minutes() -> None:
    limits = refused(RelayLimits(), Dimension.FILTERS, 5, NOW, Source.SILENCE)
    assert limits.doubted(NOW + DOUBT_SILENCE_AFTER_S - 1) == limits
    tried = limits.doubted(NOW + DOUBT_SILENCE_AFTER_S)
    assert tried.max_filters == 10
    again = refused(tried, Dimension.FILTERS, 5, NOW + DOUBT_SILENCE_AFTER_S, Source.SILENCE)
    assert again.doubted(NOW + 2 * DOUBT_SILENCE_AFTER_S) == again, "each time after twice as long"
    assert again.doubted(NOW + 3 * DOUBT_SILENCE_AFTER_S).max_filters == 10
    in_words = refused(RelayLimits(), Dimension.FILTERS, 5, NOW)
    assert in_words.doubted(NOW + 10 * DAY) == in_words


def test_more_bytes_are_never_tried() -> None:
    """A reset takes the live subscriptions along."""
    limits = refused(RelayLimits(), Dimension.FRAME_BYTES, 16_384, NOW)
    assert limits.relaxed(NOW + 100 * DAY).max_frame_bytes == 16_384
    lost = RelayLimits().below(40_000).dated(RelayLimits(), NOW)
    assert lost.relaxed(NOW + 100 * DAY).max_frame_bytes == 20_000
    assert lost.with_advertised(document(max_message_length=65_536)).max_frame_bytes == 65_536, (
        "unless the relay says so"
    )
    assert lost.with_advertised(document(max_message_length=16_384)).max_frame_bytes == 16_384


def test_control_doubles_kinds_until_the_relay_says_how_many() -> None:
    limits, steps = RelayLimits(), [RelayLimits().max_kinds]
    while (limits := limits.raised(Dimension.KINDS)).max_kinds != steps[-1]:
        steps.append(limits.max_kinds)
    assert steps == [10, 20, 40, 80, 160, 320]
    assert limits.relaxed(NOW).max_kinds == 320, "and is not forgotten with the day"
    failed = limits.narrowed(Dimension.KINDS, 80, Source.CONTROL).dated(limits, NOW)
    assert failed.relaxed(NOW + 50 * DAY).max_kinds == 80, "only control tries more"
    refusing = RelayLimits().narrowed(Dimension.KINDS, 20)
    assert refusing.max_kinds == 20
    assert refusing.raised(Dimension.KINDS) == refusing
    assert refusing.narrowed(Dimension.KINDS, 3).max_kinds == 3


def test_live_filters_name_as_many_kinds_as_no_refusal_forbids() -> None:
    """No store is searched for them."""
    assert RelayLimits().live_kinds == 320
    assert RelayLimits().narrowed(Dimension.KINDS, 5, Source.CONTROL).live_kinds == 320
    assert RelayLimits().narrowed(Dimension.KINDS, 20).live_kinds == 20


def test_a_kind_refused_by_name_is_left_out_until_the_next_day() -> None:
    limits = RelayLimits().without_kind(30_078).without_kind(4)
    assert limits.refused_kinds == (4, 30_078)
    assert sizes(limits) == sizes(RelayLimits())
    assert limits.relaxed(NOW).refused_kinds == ()


def test_what_only_a_document_said_is_forgotten_for_the_next_one() -> None:
    small = RelayLimits().with_advertised(
        document(max_subscriptions=3, max_limit=10, max_message_length=9_000, max_filters=1)
    )
    assert small.relaxed(NOW) == RelayLimits()


@given(ANY_LIMITS, st.integers(NOW, NOW + 2**30))
def test_nothing_is_tried_that_not_every_relay_is_asked_for(limits: RelayLimits, now: int) -> None:
    for known in (limits, limits.dated(RelayLimits(), NOW)):
        tried = known.relaxed(now)
        assert all(tried.of(each) <= max(MOST[each], known.of(each)) for each in Dimension)


def test_what_is_learned_otherwise_is_no_refusal_of_size() -> None:
    assert replace(RelayLimits(), needs_kinds=True).dated(RelayLimits(), NOW).bounds == ()


def test_limits_as_stored_by_the_last_release_are_read() -> None:
    stored = {"max_subscriptions": 4, "max_members": 125, "narrowed_at": NOW, "widen_after": DAY, "demands_auth": True}
    limits = RelayLimits.from_json(orjson.dumps(stored).decode())
    assert limits == RelayLimits(max_subscriptions=4, demands_auth=True)


@pytest.mark.parametrize(
    "bounds", ["x", [1], [{"dimension": "max_moons", "source": "refusal"}], [{"dimension": "max_ids"}]]
)
def test_bounds_that_cannot_be_read_are_none(bounds: object) -> None:
    assert RelayLimits.from_json(orjson.dumps({"bounds": bounds, "refused_kinds": "4"}).decode()) == RelayLimits()


def test_times_beyond_now_are_taken_for_now() -> None:
    """A clock that was ahead noted them; what was learned then stays."""
    ahead = RelayLimits(informed_at=9, whole_refused_at=8, negentropy_failed_at=7)
    ahead = ahead.narrowed(Dimension.FILTERS, 2).dated(RelayLimits(), 9)
    expected = replace(ahead, informed_at=7, whole_refused_at=7, bounds=(replace(ahead.bounds[0], narrowed_at=7),))
    assert ahead.as_of(7) == expected
    assert ahead.as_of(9) is ahead
