"""Y: rows per second of a plain Python program with SQLite, the second yardstick beside V.

V is arithmetic in a register file; a service in Python waits for memory and calls the kernel instead, so that V alone
does not carry from one processor to another. This program does what the service does, without its code: it decodes
events, hashes them, queues them in a database with a write-ahead log, takes them out again and counts by tag. It must
never change: figures of years ago are compared by it.
"""

import hashlib
import json
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Self

ROWS = 100
"""Rows of one round, in two transactions."""
_SCHEMA = """
CREATE TABLE queue (seq INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, ready INTEGER NOT NULL, body BLOB);
CREATE INDEX queue_ready ON queue (ready);
CREATE TABLE counts (tag TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
"""
_COUNT = "INSERT INTO counts VALUES (?, 1) ON CONFLICT (tag) DO UPDATE SET number = number + 1"


class PlainQueue:
    """The program, with its database in a temporary folder; closed on leaving."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="event-service-bench-yardstick-")
        self._database = sqlite3.connect(Path(self._folder.name) / "queue.db", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = wal")
        self._database.execute("PRAGMA synchronous = normal")
        self._database.executescript(_SCHEMA)
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        self._folder.cleanup()

    def round(self) -> int:
        """Queue `ROWS` rows and take them out; return how many there were."""
        rows = []
        for _ in range(ROWS):
            self._number += 1
            text = json.dumps({"kind": 1, "tags": [["p", str(self._number % 97)]], "content": "x" * 700})
            event = json.loads(text)
            rows.append((hashlib.sha256(f"{self._number}{text}".encode()).digest(), event["tags"][0][1], text))
        execute, executemany = self._database.execute, self._database.executemany
        execute("BEGIN IMMEDIATE")
        executemany("INSERT INTO queue (id, ready, body) VALUES (?, 0, ?)", ((key, text) for key, _, text in rows))
        execute("COMMIT")
        execute("BEGIN IMMEDIATE")
        taken = execute("SELECT seq FROM queue WHERE ready <= 0 ORDER BY ready LIMIT ?", (ROWS,)).fetchall()
        executemany("DELETE FROM queue WHERE seq = ?", taken)
        executemany(_COUNT, ((tag,) for _, tag, _ in rows))
        execute("COMMIT")
        return len(taken)

    def rate(self) -> float:
        """Return Y by one round, after one that warms the caches."""
        self.round()
        began = time.thread_time()
        return self.round() / (time.thread_time() - began)
