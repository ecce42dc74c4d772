"""SGD with adaptive gradient clipping, learning-rate schedules and BiT-HyperRule."""
