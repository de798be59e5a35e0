"""Chaos over several hosts: `bin/chaos --hub`."""
