"""A migrated database file of its own for each test."""

from tests.support.database import clock, db, path

__all__ = ["clock", "db", "path"]
