"""One module per stage, each with `run(ctx)`; stages never import each other."""
