"""The status page: one look at everything, for an operator with a browser."""
