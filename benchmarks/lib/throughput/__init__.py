"""Parts of `throughput.py`: the models it compares, and memory."""
