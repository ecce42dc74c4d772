"""Measure reading of large photographs: python benchmarks/loading_large.py [--images FOLDER|ZIP] [--out FILE.json]

The same training views of 12-megapixel JPEG files three ways: decoded in full, with --data.scaled-decode, and prepared
with --shorter-side; what each costs per image, and how far scaled decoding is from the full pixels.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from benchmarks.lib.loading.large_photos import LoadingLarge, run
from data_pipelines.common.cli import entry_point, parse


@entry_point
def main() -> None:
    """Parse the command line, measure, and write JSON and table."""
    run(parse(LoadingLarge, __doc__))


if __name__ == "__main__":
    main()
