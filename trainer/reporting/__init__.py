"""From the results of many runs to tables, figures and a page: collected, summarised over seeds, laid out, written."""
