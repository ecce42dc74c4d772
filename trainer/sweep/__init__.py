"""Sweeps: many fine-tunings with one command."""
