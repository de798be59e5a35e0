"""The rules of what is taken: relevant events, what they retract, and what the target relay is given. Pure."""
