"""Large-scale pre-training of BiT ResNets, and their transfer."""
