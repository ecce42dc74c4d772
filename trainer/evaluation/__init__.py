"""Evaluation of a finished run: metrics with confidence intervals, the page and the model card, predictions."""
