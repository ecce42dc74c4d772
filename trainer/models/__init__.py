"""BiT ResNets and their weights."""
