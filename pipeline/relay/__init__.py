"""One relay: dialling it, talking to it, and what it allows."""
