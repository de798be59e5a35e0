"""How a relay really behaves, found out by some hundred questions."""
