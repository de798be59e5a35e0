"""Sinks: where events are delivered."""
