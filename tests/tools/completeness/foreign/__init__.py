"""The crawler on relays that others wrote: recall, what was reported as missing, and what it cost."""
