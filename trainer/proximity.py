"""How far targets lie from sources: bitscale proximity --sources A B --targets X Y --network RUN --out DIR

Compares the images of both in the features of one network, in those of each source and of random weights, and in
pixels. Writes proximity.json, which `bitscale report` sets beside what pre-training gained, and a page with tables.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from data_pipelines.common.cli import entry_point, parse
from trainer.domain_distance.settings import Proximity


@entry_point
def main() -> None:
    """Parse the command line, measure, and write the result."""
    settings = parse(Proximity, __doc__)
    settings.require_found()
    # Here because it comes with PyTorch, which help and refusals do not need.
    from trainer.reporting.proximity_page import write_proximity

    print(write_proximity(settings))


if __name__ == "__main__":
    main()
