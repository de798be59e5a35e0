"""For how long an overloaded server wants to be left alone."""

import pytest

from pipeline.relay.retry_after import MAX_RETRY_AFTER_S, retry_after_s

NOW = 1_792_567_680  # Wed, 21 Oct 2026 07:28:00 GMT
DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("86400", MAX_RETRY_AFTER_S),
        ("86401", MAX_RETRY_AFTER_S),
        ("9" * 5000, MAX_RETRY_AFTER_S),
        ("Wed, 21 Oct 2026 07:29:30 GMT", 90),
        ("Wednesday, 21-Oct-26 07:29:30 GMT", 90),
        ("Wed Oct 21 07:29:30 2026", 90),
        ("Wed, 21 Oct 2020 07:29:30 GMT", 0),
        ("Wed, 21 Oct 2099 07:29:30 GMT", MAX_RETRY_AFTER_S),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Wed, 99 Oct 2026 99:99:99 GMT", None),
    ],
)
def test_both_forms_are_read_and_bounded_by_a_day(value: str, seconds: int | None) -> None:
    assert retry_after_s(value, DATE, NOW) == seconds
    assert retry_after_s(value, "", NOW) == seconds


def test_servers_own_clock_counts_where_it_is_told() -> None:
    assert retry_after_s("Wed, 21 Oct 2026 07:29:30 GMT", DATE, NOW + 10_000) == 90
