"""Data set readers: one function per set, which lists its images as distributed."""
