"""What to ask relays for, and how to know that the answer is complete."""
