"""Replay: delivered events are delivered once more, from the database or from relays."""
