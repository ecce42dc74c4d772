"""Parts of `on_gpu.py`: the programs it runs, and the machine it runs on."""
