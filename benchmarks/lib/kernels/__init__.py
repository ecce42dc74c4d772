"""GroupNorm against torch, its tiles, and the machine code and host time of all Triton kernels."""
