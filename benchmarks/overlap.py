"""What is saved by exchanging gradients during the backward pass: python benchmarks/overlap.py [--ranks 2 4]

Real Gloo ranks in network namespaces, on a link so fast that exchanging the gradients takes about half as long as the
backward pass, and one on which it takes as long. The filters of each unit are made right before the unit, as in the
shipped model, or those of all units before the stem, so that autograd has their gradients last. Linux, as root.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from benchmarks.lib.network.overlap import Overlap, run
from data_pipelines.common.cli import entry_point, parse


@entry_point
def main() -> None:
    """Parse the command line, measure, and write JSON and Markdown."""
    run(parse(Overlap, __doc__))


if __name__ == "__main__":
    main()
