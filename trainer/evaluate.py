"""Evaluate a run: bitscale evaluate RUN [--data DIR]

Writes one HTML page, evaluation.json, cases.csv and MODEL_CARD.md. Without --data it is of the run's own test split,
from the predictions that the run kept; with it, of another prepared set, whose labels are matched by name.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import sys

from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.old_flags import translate
from data_pipelines.datasets.catalog import find
from trainer.evaluation.assessment.evaluate_settings import Evaluate
from trainer.run_files import require_run

OLD_FLAGS = {"--batch-size": "--eval-batch-size"}


@entry_point
def main() -> None:
    """Parse the command line and evaluate."""
    settings = parse(Evaluate, __doc__, args=translate(sys.argv[1:], OLD_FLAGS))
    for run in filter(None, (settings.run, settings.against)):
        require_run(run)
    if settings.data is not None:
        find(settings.data)
    # Here because it comes with PyTorch, which help and refusals do not need.
    from trainer.evaluation.evaluate_run import evaluate_run

    print(evaluate_run(settings))


if __name__ == "__main__":
    main()
