"""A study of transfer and of the distance between source and target, with small sets."""
