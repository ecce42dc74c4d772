"""A run from its configuration to its result: job, loop, saving, monitors and probes."""
