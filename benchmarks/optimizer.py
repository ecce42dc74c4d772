"""Measure the optimiser: python benchmarks/optimizer.py [--model r50x1] [--rounds 5] [--out optimizer.json]

Adaptive clipping and the SGD update of all of a model's tensors: ours against a loop over tensors as the paper's text
describes it, timm's clipping with torch's fused SGD, and what moving the bytes alone takes. First checks that ours and
the loop give the same weights.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from benchmarks.lib.throughput.optimizer import OptimizerBenchmark, run
from data_pipelines.common.cli import entry_point, parse


@entry_point
def main() -> None:
    """Parse the command line, check, measure, write JSON and Markdown, and print the table."""
    run(parse(OptimizerBenchmark, __doc__))


if __name__ == "__main__":
    main()
