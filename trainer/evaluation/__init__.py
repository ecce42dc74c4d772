"""How good a run is, and how sure one may be of it: statistics, the page and the model card."""
