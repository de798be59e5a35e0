"""Which events the target relay is given."""

import pytest

from pipeline.nostr.event import Event
from pipeline.rules.target_relay import MAX_BYTES, MAX_TAGS, skip_reason

NOW = 1_700_000_000


def event(kind: int = 0, *tags: list[str]) -> Event:
    return Event(bytes(32), bytes(32), NOW, kind, list(tags), "", bytes(64))


@pytest.mark.parametrize("kind", [0, 3, 10002])
def test_profiles_contact_lists_and_relay_lists_are_sent(kind: int) -> None:
    assert skip_reason(event(kind), 500, NOW) is None


@pytest.mark.parametrize("kind", [1, 2, 4, 5, 7, 1984, 6666, 10000, 10003, 22242, 30000])
def test_other_kinds_are_not(kind: int) -> None:
    assert skip_reason(event(kind), 500, NOW) == "kind"


@pytest.mark.parametrize("tag", [["-"], ["-", "x"]])
def test_protected_events_are_their_authors_to_publish(tag: list[str]) -> None:
    assert skip_reason(event(0, tag), 500, NOW) == "protected"


@pytest.mark.parametrize(
    ("expires", "reason"),
    [(NOW - 1, "expired"), (NOW, "expired"), (NOW + 1, None), ("soon", None), ("", None), ("-5", None)],
)
def test_expired_events_are_not_sent(expires: object, reason: str | None) -> None:
    """An expiration that is no number expires nothing."""
    assert skip_reason(event(0, ["expiration", str(expires)]), 500, NOW) == reason


@pytest.mark.parametrize(("size", "reason"), [(MAX_BYTES, None), (MAX_BYTES + 1, "too-large")])
def test_what_the_relay_takes_in_bytes(size: int, reason: str | None) -> None:
    assert MAX_BYTES == 196_608
    assert skip_reason(event(3), size, NOW) == reason


@pytest.mark.parametrize(("count", "reason"), [(3_000, None), (3_001, "too-many-tags")])
def test_what_the_relay_takes_in_tags(count: int, reason: str | None) -> None:
    assert MAX_TAGS == 3_000
    assert skip_reason(event(3, *[["p", "x"]] * count), 500, NOW) == reason
