"""Statistics of tables of results."""
