"""A network of a thousand relays and fifty thousand people on loopback, and the service on it."""
