"""Benchmarks. They run the shipped loop, loaders and optimiser, never a copy of them."""
