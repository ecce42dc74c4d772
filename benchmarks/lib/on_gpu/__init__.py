"""Code behind `on_gpu.py`: the programs it runs and a description of the machine."""
