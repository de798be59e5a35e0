"""The questions, each a small object: what it asks, and how it reads what comes."""
