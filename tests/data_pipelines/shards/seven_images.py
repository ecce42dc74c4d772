"""Classes and labels of the set that the fixture `prepared` writes."""

CLASSES = ("cat", "dog", "eel")
LABELS = [0, 2, 1, 1, 0, 2, 2]
