"""Measure GroupNorm + ReLU: python benchmarks/group_norm.py [--rounds 5] [--out group_norm.json]

First checks the kernel against float64; then times it, layer by layer, against torch's own pair (channels-first,
channels-last, compiled) and against what moving the bytes alone takes. Under three minutes on one GPU.
From 2.15 on torch has kernels of its own for channels-last GroupNorm; the table ends with whether ours are needless.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from benchmarks.lib.kernels.group_norm import GroupNormBenchmark, run
from data_pipelines.common.cli import entry_point, parse


@entry_point
def main() -> None:
    """Parse the command line, check, measure, write JSON and Markdown, and print the table."""
    run(parse(GroupNormBenchmark, __doc__))


if __name__ == "__main__":
    main()
