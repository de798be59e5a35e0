"""What this host says of relays that it cannot use."""

from pipeline.store import held_shares
from pipeline.store.database import Database


def test_reason_of_a_relay_has_no_character_that_the_hub_refuses(db: Database) -> None:
    with db.write() as tx:
        held_shares.add_unfit(tx, "relay.example.com", "3 dials failed: a\0b\ud800")
    with db.read() as tx:
        assert held_shares.unfit(tx) == [("relay.example.com", r"3 dials failed: a\u0000b\ud800")]
