from pipeline.relay.errors import MAX_DETAIL_LENGTH, ConnectionLost, DialError, DialReason, LossReason, printable


def test_what_strangers_wrote_stays_on_one_short_line() -> None:
    assert printable("a\r\nb\x00c\u2028d") == "a  b c d"
    lost = ConnectionLost(LossReason.CLOSED, "1000 " + "x" * 10_000)
    assert len(lost.detail) == MAX_DETAIL_LENGTH
    assert str(lost) == f"closed: {lost.detail}"


def test_dial_error_is_not_permanent_unless_said() -> None:
    assert not DialError(DialReason.TIMEOUT, "").permanent
    assert DialError(DialReason.HANDSHAKE, "", status=503).status == 503
