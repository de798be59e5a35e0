"""Proof of completeness: what relays hold of some authors, asked for independently of the crawl, against the store."""
