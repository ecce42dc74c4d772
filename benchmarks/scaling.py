"""Measure and predict scaling: python benchmarks/scaling.py --gpus 1,4,...,1024 [--out scaling] [--paper]

Counts that fit this machine are measured, the rest are planned for a cluster and predicted. What was measured and what
was predicted is told apart everywhere: a column, hollow markers, dashes.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from benchmarks.lib.scaling.settings import Scaling
from data_pipelines.common.cli import entry_point, parse


@entry_point
def main() -> None:
    """Parse the command line, measure, predict, and write tables and figures."""
    settings = parse(Scaling, __doc__)
    # Here because it comes with PyTorch, which the help does not need.
    from benchmarks.lib.scaling.study import run

    run(settings)


if __name__ == "__main__":
    main()
