"""What is taught by messages that broke the connection alone."""

from pipeline.delivery.connection_breakers import LEARNED_FOR_S, Breakers

LARGE, SMALL, OTHER = b"l" * 32, b"s" * 32, b"o" * 32


def broken_twice(made: Breakers, size: int = 200_000, delivered: int = 1_000) -> bool:
    assert not made.on_broken(LARGE, size, 0.0)
    made.on_delivered(SMALL, delivered)
    return made.on_broken(LARGE, size, 1.0)


def test_message_that_breaks_twice_while_smaller_ones_pass_is_too_large() -> None:
    made = Breakers()
    assert broken_twice(made)
    assert LARGE not in made
    assert made.is_too_large(200_000, 1.0)
    assert made.is_too_large(300_000, 1.0)
    assert not made.is_too_large(199_999, 1.0)


def test_relay_that_takes_nothing_shows_nothing() -> None:
    made = Breakers()
    assert not any(made.on_broken(LARGE, 200_000, 0.0) for _ in range(10))
    assert LARGE in made


def test_message_as_large_that_was_delivered_clears_its_size() -> None:
    made = Breakers()
    made.on_delivered(OTHER, 200_000)
    assert not broken_twice(made)


def test_larger_messages_that_pass_are_no_sign() -> None:
    assert not broken_twice(Breakers(), size=300, delivered=1_000)


def test_lesson_is_forgotten_after_a_day_or_by_the_first_success() -> None:
    made = Breakers()
    broken_twice(made)
    assert not made.is_too_large(200_000, 1.0 + LEARNED_FOR_S)
    made.on_delivered(OTHER, 250_000)
    assert not made.is_too_large(300_000, 2.0)


def test_delivered_message_is_no_breaker_any_more() -> None:
    made = Breakers()
    made.on_broken(LARGE, 200_000, 0.0)
    made.on_delivered(LARGE, 200_000)
    assert LARGE not in made


def test_breakers_are_bounded() -> None:
    made = Breakers()
    for number in range(10_000):
        made.on_broken(number.to_bytes(32, "big"), 1, 0.0)
    assert sum(number.to_bytes(32, "big") in made for number in range(10_000)) <= 256
