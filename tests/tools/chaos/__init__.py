"""The whole service broken in every way that production will, and its deliveries judged; see `bin/chaos --help`."""
