"""An independent judgement of a run: what must be delivered, and what is missing or extra.

Nothing here imports `pipeline`: a mistake in the project's protocol code must not be able to hide itself.
"""
