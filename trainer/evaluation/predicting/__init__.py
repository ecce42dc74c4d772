"""Predictions of new images: inputs, the table of predictions, maps."""
