"""Engines on two ranks of this machine: python benchmarks/engines.py [--steps 20 ...]

Time of a step and of its update, peak memory and bytes on the wire, all through the shipped loop. As root every engine
gets a network namespace of its own, so that the bytes are its own too.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from benchmarks.lib.engines.comparison import EnginesBenchmark, run
from data_pipelines.common.cli import entry_point, parse


@entry_point
def main() -> None:
    """Parse the command line, measure every variant, and write JSON and Markdown."""
    run(parse(EnginesBenchmark, __doc__))


if __name__ == "__main__":
    main()
