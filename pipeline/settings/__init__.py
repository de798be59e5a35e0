"""Settings: from text in the environment or a file to one frozen, typed object."""
