"""Signed events from a seed, and whole workloads of them.

Nothing here imports `pipeline`: a mistake in the project's protocol code must not be able to hide itself.
"""
