"""Export of a run as a graph for other programs, checked against the run's model."""
