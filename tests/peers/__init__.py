"""How programs that others wrote are started for tests; `bin/peers` installs them."""
