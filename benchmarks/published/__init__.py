"""What the code published with the paper does, for benchmarks to compare with."""
