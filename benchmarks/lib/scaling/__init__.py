"""Parts of `scaling.py`: measured and predicted points, the table and the figure."""
