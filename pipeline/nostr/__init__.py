"""The Nostr protocol: pure, no I/O, no clock."""
