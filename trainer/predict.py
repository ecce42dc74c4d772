"""Predict new images: bitscale predict RUN INPUT --out predictions.csv

INPUT is an image, a folder, DICOM, a shard (.tar), or a CSV file with a column of paths. How images are prepared, the
classes and the thresholds come from the run. What cannot be read becomes a row that says why. The same command again
takes only what is new.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import sys

from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.message_parts import counted, number
from data_pipelines.common.old_flags import translate
from trainer.evaluation.predicting.predict_settings import Predict, require_inputs
from trainer.run_files import require_run

OLD_FLAGS = {"--batch-size": "--eval-batch-size"}


@entry_point
def main() -> None:
    """Parse the command line and predict."""
    settings = parse(Predict, __doc__, args=translate(sys.argv[1:], OLD_FLAGS))
    require_run(settings.run)
    require_inputs(settings.input)
    # Here because it comes with PyTorch, which help and refusals do not need.
    from trainer.evaluation.predicting.predict_images import predict_images

    counts, left_out = predict_images(settings)
    kept = f", {counts['kept']} of them as before" if counts["kept"] else ""
    gone = f", {number(counts['gone'], 'row')} of images that are gone (column remark)" if counts["gone"] else ""
    unreadable = f", {counts['unreadable']} could not be read (column error)" if counts["unreadable"] else ""
    unlike = f", {counts['unlike']} unlike the training images (column unlike training)" if counts["unlike"] else ""
    others = f", {number(left_out.total(), 'file')} left out: {counted(left_out)}" if left_out else ""
    print(f"{settings.out}: {number(counts['read'], 'image')}{kept}{unlike}{unreadable}{gone}{others}")


if __name__ == "__main__":
    main()
