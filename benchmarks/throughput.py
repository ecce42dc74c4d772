"""Measure a training step: python benchmarks/throughput.py [--model r50x1] [--batch-size 8] [--out throughput.json]

The shipped loop, engine, model, loss and optimiser on synthetic batches against timm's model of the same weights, eager
and compiled, channels-first and channels-last, its BatchNorm twin, and the convolutions alone. First checks our loss
and gradients against float64. `--plan` estimates memory and measures nothing.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from benchmarks.lib.throughput.comparison import Throughput, run
from data_pipelines.common.cli import entry_point, parse


@entry_point
def main() -> None:
    """Parse the command line, check, measure, write JSON and Markdown, and print the table."""
    run(parse(Throughput, __doc__))


if __name__ == "__main__":
    main()
