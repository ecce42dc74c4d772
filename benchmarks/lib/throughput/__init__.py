"""Code behind `throughput.py`, `steps.py` and `optimizer.py`: a training step and its baselines."""
