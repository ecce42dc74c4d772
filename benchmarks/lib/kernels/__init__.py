"""GroupNorm's kernels timed, and the code and host time of all Triton kernels, without a GPU."""
