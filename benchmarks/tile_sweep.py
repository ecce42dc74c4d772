"""Time other tiles of GroupNorm's kernels: python benchmarks/tile_sweep.py [--model r50x1:256] [--out tile_sweep.json]

For every distinct layer of a model, forward and backward apart: the tile that `trainer.kernels.tiling` chooses against
others of more and fewer elements and warps, each timed by triton.testing.do_bench, the cache cold. On a CPU, with
TRITON_INTERPRET=1, everything runs and no time means anything.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from benchmarks.lib.kernels.tile_sweep import TileSweep, run
from data_pipelines.common.cli import entry_point, parse


@entry_point
def main() -> None:
    """Parse the command line, measure, write JSON and Markdown, and print the table."""
    run(parse(TileSweep, __doc__))


if __name__ == "__main__":
    main()
