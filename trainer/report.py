"""Report runs: bitscale report RUNS ... --out DIR

Collects the results below some folders and in CSV files (results.csv of an earlier report, or the tables that the
paper's authors published) into report.md, report.html, tables for LaTeX, CSV files and figures.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from data_pipelines.common.cli import entry_point, parse
from trainer.reporting.report_runs import Report, write_report


@entry_point
def main() -> None:
    """Parse the command line and write the report."""
    print(write_report(parse(Report, __doc__)))


if __name__ == "__main__":
    main()
