"""Saving of accepted events: whether they are relevant, what they change, and which sinks they are queued for."""
