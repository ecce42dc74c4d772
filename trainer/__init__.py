"""Pre-training of BiT ResNets and transfer: configuration, loop, engines, checkpoints, reports."""
