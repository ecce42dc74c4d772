"""Pre-training of BiT ResNets and their transfer: configuration, loop, engines, checkpoints, reports."""
