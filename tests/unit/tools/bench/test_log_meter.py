"""Bytes of the write-ahead log, as the bench counts them from outside."""

from pathlib import Path

import apsw

from tests.tools.bench.log_meter import LogMeter


def test_frames_are_counted_across_restarts_of_the_log(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    connection = apsw.Connection(str(path))
    connection.pragma("page_size", 1024)
    connection.pragma("journal_mode", "wal")
    connection.execute("CREATE TABLE one (a)")
    with LogMeter(path) as meter:
        assert meter.bytes() == 0, "what was written before does not count"
        connection.execute("INSERT INTO one VALUES (1)")
        assert meter.bytes() == 1024 + 24
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        connection.execute("INSERT INTO one VALUES (2)")
        assert meter.bytes() == 2 * (1024 + 24)
    connection.close()
