"""The world that the service is tried in: signed events from a seed, and independent books of what must arrive.

Nothing here imports `pipeline`: a mistake in the project's protocol code must not be able to hide itself.
"""
