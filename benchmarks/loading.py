"""Measure loading: python benchmarks/loading.py [--images FOLDER|ZIP] [--rounds 5] [--out loading.json]

Decoding, cropping and handing over against torchvision, webdataset and FFCV; what Python costs per image; how a rank
starts with a large index; and, with a GPU, how fast it decodes and whether training waits.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from benchmarks.lib.loading.comparison import Loading, run
from data_pipelines.common.cli import entry_point, parse


@entry_point
def main() -> None:
    """Parse the command line, measure, write the JSON file and print a table."""
    run(parse(Loading, __doc__))


if __name__ == "__main__":
    main()
