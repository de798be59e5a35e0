"""The hub: a PostgreSQL database through which crawling hosts hand events over to the home host."""
