"""Evaluate a run: bitscale evaluate RUN [--data DIR]

Writes one HTML page, evaluation.json, cases.csv and MODEL_CARD.md. Without --data it is of the run's own test split,
from the predictions that the run kept; with it, of another prepared set, whose labels are matched by name.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import sys

from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.old_flags import translate
from trainer.evaluation.assessment.evaluate_settings import Evaluate

OLD_FLAGS = {"--batch-size": "--eval-batch-size"}


@entry_point
def main() -> None:
    """Parse the command line and evaluate."""
    settings = parse(Evaluate, __doc__, args=translate(sys.argv[1:], OLD_FLAGS))
    # Here because it comes with PyTorch, which the help does not need.
    from trainer.evaluation.evaluate_run import evaluate_run

    print(evaluate_run(settings))


if __name__ == "__main__":
    main()
