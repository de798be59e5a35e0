"""What every process is made of; knows nothing of Nostr, the store or the stages."""
