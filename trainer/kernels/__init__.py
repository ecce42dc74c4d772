"""Fused operations, each one function with a plain PyTorch fallback."""
