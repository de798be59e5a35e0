"""What is done with an event that was taken in: whether it is relevant, what it changes, and where it goes on to."""
