"""The whole service broken in every way that the world will, and its books checked; see `bin/chaos --help`."""
