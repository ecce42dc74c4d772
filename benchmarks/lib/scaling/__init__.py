"""Code behind `scaling.py`: measured points, plans for a cluster, table and figure."""
