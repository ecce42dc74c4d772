"""Metrics of predictions with confidence intervals: resampled patients, ROC and precision, paired comparisons."""
