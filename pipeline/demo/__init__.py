"""A world in miniature, so that a newcomer sees the service work with nothing else at hand."""
