"""Where events are handed on to."""
