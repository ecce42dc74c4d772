"""Profiling: how long each part of a training step takes."""
