"""The running service attacked by strangers, and what its honest users notice; see `bin/siege --help`."""
