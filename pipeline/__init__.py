"""The event-service pipeline: everything but the stages themselves."""
