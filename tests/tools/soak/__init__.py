"""A long run with restarts, after which every count adds up."""
