"""How long the host takes for what this package adds to a training step on a GPU, without one: a driver that launches
nothing stands in for it. python -m benchmarks.host_time [--models r50x1 r152x4] [--out host_time.json]

Norms, forward and backward; filters, standardised once and their gradients unit by unit; clipping and update. What
PyTorch's own convolutions and additions take is not in it. On CPU tensors
that nobody looks into; CPU time of one thread.
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
