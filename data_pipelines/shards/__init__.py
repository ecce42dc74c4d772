"""Prepared sets on disk: tar shards, their index, sets joined and found by name, copies on a node."""
