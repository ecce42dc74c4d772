"""Engines side by side on two ranks."""
