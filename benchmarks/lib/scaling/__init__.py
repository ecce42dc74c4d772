"""Parts of `scaling.py`: measured points, plans for a cluster, the table and the figure."""
