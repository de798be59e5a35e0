"""The event-service pipeline: everything but the stages themselves."""

__version__ = "1.0.0.dev0"
"""The only place where the version stands; package, `event-service --version` and `bin/release` read it here."""
