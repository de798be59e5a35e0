"""Peers on loopback for tests: relays, Pub/Sub, and the service itself as a child process."""
