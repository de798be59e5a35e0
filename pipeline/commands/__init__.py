"""The commands of an operator, beside those that run the service; each works while the service runs."""
