"""Which errors of the driver end a stage, and which only its connection."""

import psycopg
import pytest

from pipeline.hub.connection import HubConnection, HubRefused, HubUnavailable, translated


@pytest.mark.parametrize("state", ["08006", "40001", "53300", "55P03", "57P01", "25006"])
def test_state_that_passes_is_no_refusal(state: str) -> None:
    with pytest.raises(HubUnavailable), translated():
        raise psycopg.errors.lookup(state)("x")


@pytest.mark.parametrize("state", ["42501", "42883", "55000", "22021"])
def test_state_that_stays_is_a_refusal(state: str) -> None:
    with pytest.raises(HubRefused, match=state), translated():
        raise psycopg.errors.lookup(state)("x")


@pytest.mark.parametrize("error", [psycopg.DataError, psycopg.ProgrammingError])
def test_argument_that_the_driver_refuses_is_a_refusal(error: type[psycopg.Error]) -> None:
    with pytest.raises(HubRefused), translated():
        raise error("text fields cannot contain NUL")


def test_lost_connection_is_no_refusal() -> None:
    with pytest.raises(HubUnavailable), translated():
        raise psycopg.OperationalError("the connection is lost")


def test_address_with_an_unknown_option_is_refused() -> None:
    with pytest.raises(HubRefused, match="no_such_option"):
        HubConnection.open("postgresql://127.0.0.1/events?no_such_option=1")
