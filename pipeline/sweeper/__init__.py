"""Upkeep of the database: what is forgotten when, and what keeps the rest in order."""
