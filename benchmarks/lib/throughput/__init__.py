"""Parts of `throughput.py`, `steps.py` and `optimizer.py`: a training step, and what it is compared with."""
