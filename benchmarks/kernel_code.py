"""Compile every Triton launch of a training step without a GPU, and look at the machine code:
python benchmarks/kernel_code.py [--sample] [--capabilities 90] [--dtypes bf16] [--out kernel_code.json]

All for one type of GPU and one precision take about a minute on one core; --sample takes a few of each kernel.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from benchmarks.lib.kernels.kernel_code import KernelCode, run
from data_pipelines.common.cli import entry_point, parse


@entry_point
def main() -> None:
    """Parse the command line, compile, write JSON and Markdown, and print the table."""
    run(parse(KernelCode, __doc__))


if __name__ == "__main__":
    main()
