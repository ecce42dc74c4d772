"""Code behind the programs in `benchmarks/`, and what several of them share."""
