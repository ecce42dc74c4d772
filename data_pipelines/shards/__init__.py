"""Prepared sets on disk: tar shards, index, joined sets, copies on a node."""
