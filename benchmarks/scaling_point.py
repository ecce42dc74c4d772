"""One measured point: torchrun --nproc-per-node N benchmarks/scaling_point.py --run-dir DIR [...]

Runs the shipped training program for a few windows of steps and leaves `result.json` in its run folder.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from benchmarks.lib.scaling.point import Point, run
from data_pipelines.common.cli import entry_point, parse


@entry_point
def main() -> None:
    """Parse the command line and measure."""
    run(parse(Point, __doc__))


if __name__ == "__main__":
    main()
