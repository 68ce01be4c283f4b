"""Ways to compute attention with relative positions."""
