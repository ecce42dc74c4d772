"""Fused operations, each behind one function with a plain PyTorch path."""
