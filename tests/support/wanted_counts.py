"""The counts that the store keeps of wanted authors, held against its rows."""

from pipeline.store.database import Tx


def check_wanted(tx: Tx) -> None:
    """The reasons to want someone are registrations, and follows that do not wait of users and of those who leave."""
    refs = """
    SELECT author, count(*) FROM (
      SELECT author FROM monitored WHERE removed_at IS NULL
       UNION ALL
      SELECT followee FROM contacts JOIN monitored ON author = follower
       WHERE (removed_at IS NULL OR followees > monitored.waiting) AND NOT contacts.waiting AND followee <> follower
    ) GROUP BY author
    """
    assert dict(tx.execute(refs)) == dict(tx.execute("SELECT author, refs FROM wanted WHERE refs > 0"))
    held = """
    SELECT author, count(followee), coalesce(sum(contacts.waiting), 0)
      FROM monitored LEFT JOIN contacts ON follower = author AND followee <> follower
     WHERE removed_at IS NULL OR followees > monitored.waiting GROUP BY author
    """
    rows = "SELECT author, followees, waiting FROM monitored WHERE removed_at IS NULL OR followees > waiting"
    assert sorted(tx.execute(held)) == sorted(tx.execute(rows))
