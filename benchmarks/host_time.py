"""Measure host time of a GPU step without a GPU: python benchmarks/host_time.py [--models r50x1] [--out host_time.json]

Norms, forward and backward; filters, standardised once and their gradients unit by unit; clipping and update: CPU time
of one thread, on tensors in the CPU's memory, with a driver that launches nothing. What PyTorch's own convolutions and
additions take is not in it.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from benchmarks.lib.kernels.host_time import HostTime, run
from data_pipelines.common.cli import entry_point, parse


@entry_point
def main() -> None:
    """Parse the command line, measure, and write JSON and Markdown."""
    run(parse(HostTime, __doc__))


if __name__ == "__main__":
    main()
