"""Readers, one function per data set, that list its images as its owner distributes them."""
