"""GroupNorm benchmarks and tile sweeps, and the machine code and host time of all Triton kernels."""
