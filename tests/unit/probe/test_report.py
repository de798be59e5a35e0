"""What is made of what was seen: claims held against it, what was learned otherwise, the table and the JSON."""

import json

from pipeline.probe.claims import compare
from pipeline.probe.learned import Learned, differences
from pipeline.probe.observation import Observation, unknown
from pipeline.probe.plan import questions
from pipeline.probe.report import ProbeReport
from pipeline.probe.titles import SECTIONS, title_of
from pipeline.relay.advertised import AdvertisedLimits
from pipeline.relay.dimensions import Dimension, Source
from pipeline.relay.limits import RelayLimits
from pipeline.relay.nip11 import RelayInformation

ADDRESS = "wss://relay.example"


def seen(*observations: Observation) -> dict[str, Observation]:
    return {each.name: each for each in observations}


def claims(information: RelayInformation, *observations: Observation) -> dict[str, object]:
    return {each.name: each.value for each in compare(information, seen(*observations))}


def test_claims_of_limits_are_held_against_what_was_taken() -> None:
    said = RelayInformation(AdvertisedLimits(max_filters=20, max_limit=500, max_subscriptions=64, max_subid_length=100))
    assert claims(
        said, Observation("limit.filters", 20), Observation("limit.page", 100), unknown("limit.id_length", ""),
        Observation("limit.subscriptions", 70, is_least=True),
    ) == {
        "nip11.max_filters": "true", "nip11.max_limit": "takes less", "nip11.max_subid_length": None,
        "nip11.max_subscriptions": "takes more",
        "nip11.supports_42": None, "nip11.supports_45": None, "nip11.supports_67": None, "nip11.supports_77": None,
    }  # fmt: skip


def test_claimed_and_unclaimed_nips_are_told() -> None:
    said = RelayInformation(negentropy=True, supported_nips=frozenset({50}))
    found = claims(
        said, Observation("nip77.compares", "refused"), Observation("nip45.count", "right"),
        Observation("nip42.challenge", "none"), Observation("odd.search", "ignored"), Observation("nip67.hint", False),
    )  # fmt: skip
    assert found == {
        "nip11.supports_77": "claimed, not seen", "nip11.supports_45": "seen, not claimed",
        "nip11.supports_42": "true", "nip11.supports_50": "claimed, not seen", "nip11.supports_67": "true",
    }  # fmt: skip


def learned_otherwise(learned: Learned, *observations: Observation) -> dict[str, str]:
    return {each.name: each.note for each in differences(learned, ADDRESS, seen(*observations))}


def test_limits_that_are_too_large_or_too_small_are_told() -> None:
    limits = RelayLimits().narrowed(Dimension.AUTHORS, 50, Source.SILENCE)
    found = learned_otherwise(
        Learned(ADDRESS, limits), Observation("limit.authors", 1_000, is_least=True), Observation("limit.kinds", 5),
        Observation("limit.ids", 250), unknown("limit.filters", "x"),
    )  # fmt: skip
    assert found == {
        "learned.max_authors": "it goes by 50 (by silence); seen: 1,000 or more",
        "learned.max_kinds": "it goes by 10 (by default); seen: 5",
    }


def test_traits_forms_and_spelling_that_differ_are_told() -> None:
    learned = Learned(
        "wss://relay.example/x", RelayLimits(zero_is_all=True), {"mentions/low": "whole", "shown/4": "auth"}
    )
    found = learned_otherwise(
        learned, Observation("page.limit_zero", "EOSE, no stored event"), Observation("form.p_tag_times", "holes"),
        Observation("withheld.kind_4", "withheld silently"), Observation("border.until_author", "exclusive"),
    )  # fmt: skip
    assert set(found) == {
        "learned.zero_is_all", "learned.form mentions/low", "learned.until_exclusive", "learned.address"
    }  # fmt: skip


def test_nothing_is_told_where_the_crawler_is_right() -> None:
    learned = Learned(ADDRESS, RelayLimits(until_exclusive=True), {"authors/low": "whole"})
    same = (Observation("border.until_author", "exclusive"), Observation("form.authors", "whole"))
    assert learned_otherwise(learned, *same) == {}


def report(*observations: Observation) -> ProbeReport:
    information = RelayInformation(software="x\x1b[2J", version="1")
    return ProbeReport(ADDRESS, information, observations, 150, 3, 4_000, 12.3)


def test_table_shows_each_line_under_its_heading() -> None:
    lines = report(
        Observation("limit.kinds", 20, how="NOTICE", says="many\x1b[31m"), Observation("limit.ids", 9, is_least=True),
        unknown("live.note", "needs --write"), Observation("live.is_stored", True),
    ).lines()  # fmt: skip
    assert lines[0] == "wss://relay.example (x\\u001b[2J 1)"
    assert lines[1].startswith("150 requests over 3 connections")
    limits = lines.index(SECTIONS["limit"])
    assert " ".join(lines[limits + 1].split()) == 'kinds of a filter 20 more: NOTICE; "many\\u001b[31m"'
    assert "at least 9" in lines[limits + 2]
    assert any(line.split() == ["note", "unknown", "needs", "--write"] for line in lines)


def test_words_of_a_relay_make_no_line_of_their_own() -> None:
    forged = "no\n  limit of a filter                999"
    lines = report(Observation("limit.kinds", 20, says=forged), unknown("live.note", forged)).lines()
    assert not [line for line in lines if line.strip().startswith("limit of a filter")]
    assert all("\n" not in line for line in lines)


def test_json_keeps_types_and_unknown_is_null() -> None:
    value = report(
        Observation("limit.kinds", 20, says="x" * 9_000), unknown("live.note", "needs --write"),
        unknown("write.note", "x" * 9_000),
    ).to_value()  # fmt: skip
    lines = json.loads(json.dumps(value))["lines"]
    assert (lines["limit.kinds"]["value"], lines["live.note"]["value"]) == (20, None)
    assert len(lines["limit.kinds"]["says"]) == len(lines["write.note"]["note"]) == 1_000


def test_each_line_of_the_plan_has_a_heading_and_a_title() -> None:
    for writes in (False, True):
        names = [name for question in questions(ADDRESS, writes=writes) for name in question.names]
        assert len(names) == len(set(names))
        assert {name.partition(".")[0] for name in names} <= set(SECTIONS)
        assert not [name for name in names if "_" in title_of(name)]
