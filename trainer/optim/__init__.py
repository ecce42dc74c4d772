"""SGD with adaptive gradient clipping."""
