"""What the ends of a message that was skipped show of its event."""

import pytest

from pipeline.relay.frames import SkippedMessage
from pipeline.relay.sighting import Sighting, sighting

ID = "ab" * 32
CONTENT = '{"content":"' + r"\"created_at\":5,\"id\":\"" + "cd" * 32 + r"\"," + "x" * 100


def skipped(head: str, tail: str = "") -> SkippedMessage:
    return SkippedMessage(head.encode(), tail.encode(), 5_000_000)


@pytest.mark.parametrize(
    ("message", "seen"),
    [
        (
            skipped(f'["EVENT","P1",{{"id":"{ID}","pubkey":"{"0" * 64}","created_at":1700000000,"kind":1,'),
            Sighting("P1", bytes.fromhex(ID), 1_700_000_000),
        ),
        (
            skipped(f' [ "EVENT" , "P1" , {CONTENT}', f'x","created_at" : 1700000000 ,"id":"{ID}","kind":1}}]'),
            Sighting("P1", bytes.fromhex(ID), 1_700_000_000),
        ),
        (skipped(f'["EVENT","P1",{CONTENT}'), Sighting("P1", None, None)),
        (skipped('["EVENT","P1",{"created_at":17000'), Sighting("P1", None, None)),
        (skipped(""), Sighting(None, None, None)),
        (skipped('["NOTICE","' + "x" * 100), None),
        (skipped("x" * 100), None),
    ],
)
def test_subscription_time_and_id_are_seen_where_they_stand(message: SkippedMessage, seen: Sighting | None) -> None:
    assert sighting(message) == seen
