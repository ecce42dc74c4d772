"""Reports from the results of many runs: collected, summarised over seeds, as tables, figures and a page."""
