"""Statistics on a table of results: no files of runs, no figures, no pages."""
