"""From the outbox to a sink: claim, deliver, settle."""
