"""Measures what share of the wanted events the crawler gets from relays of every kind."""
