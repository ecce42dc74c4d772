"""Measure on a GPU what needs one: benchmarks/on_gpu.sh [FOLDER] [--part first|second|later|NAME ...] [--device cpu]

Each part is a program of its own under a time limit of its own; one that fails or is too slow does not end the others,
is listed at the end, and makes the exit code 1. FOLDER gets results.json, results.md and log.txt, anew after each part.
`--part first` and `--part second` take less than six minutes each. `--device cpu` rehearses all of it with small sizes.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from benchmarks.lib.on_gpu.run import OnGpu, run
from data_pipelines.common.cli import entry_point, parse


@entry_point
def main() -> None:
    """Parse the command line, run the parts, and tell how they ended."""
    run(parse(OnGpu, __doc__))


if __name__ == "__main__":
    main()
