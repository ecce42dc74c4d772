"""A test set judged: metrics of each class and group, cases, errors, coverage."""
