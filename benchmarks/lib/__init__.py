"""Parts of the programs in `benchmarks/`, and what several of them share."""
