"""Try the shipped loop on a device: python benchmarks/steps.py [--model r50x1] [--batch-size 64] [--out steps.json]

Some steps in each precision: whether the loss falls, how long a step takes, and where the host waits for the GPU, by
`torch.cuda.set_sync_debug_mode`; then the operations of one step, by torch.profiler. Nothing is compiled.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from benchmarks.lib.throughput.steps import Steps, run
from data_pipelines.common.cli import entry_point, parse


@entry_point
def main() -> None:
    """Parse the command line, try, measure, write JSON and Markdown, and print the tables."""
    run(parse(Steps, __doc__))


if __name__ == "__main__":
    main()
