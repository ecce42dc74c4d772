"""A run from configuration to result: job, loop, checkpoints, monitors, linear probe and k-NN."""
