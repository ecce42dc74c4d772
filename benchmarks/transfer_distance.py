"""Transfer and the distance between source and target: python benchmarks/transfer_distance.py --work DIR [--real DIR]

Pre-trains a small network on each source, fine-tunes it on each target with few and with all images, and measures how
far source and target lie apart. Without --real it uses what ships with the package: clothes, phantoms and digits. The
same command goes on where it was.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split


from dataclasses import dataclass
from pathlib import Path

from benchmarks.lib.transfer_distance.publish import publish
from benchmarks.lib.transfer_distance.stages import Size, study_in
from data_pipelines.common.cli import entry_point, parse


@dataclass(frozen=True)
class Settings:
    """Where the study lies, and how large it is."""

    work: Path
    """Folder for prepared sets and runs."""
    out: Path | None = None
    """Copy the report without its page and vector figures here, with the minutes that each stage took."""
    real: Path | None = None
    """Folder with those that are at hand of cifar10-jpeg.zip, covid-cxr.zip, pneumoniamnist.npz and
    imagenet-samples.zip; docs/transfer_distance.md says what is in them."""
    pretraining_steps: int = 300
    """Steps of 128 images on each source."""
    tuning_steps: tuple[int, int] = (40, 80)
    """Steps of 16 images of each fine-tuning with 1, 5 and 10 images per class, and with 50 and all."""
    seeds: tuple[int, int] = (10, 5)
    """Seeds likewise."""


@entry_point
def main() -> None:
    """Parse the command line and make the study."""
    settings = parse(Settings, __doc__)
    size = Size(settings.pretraining_steps, settings.tuning_steps, settings.seeds)
    study = study_in(settings.work, settings.real, size)
    study.prepare()
    study.pretrain()
    study.sweep()
    study.measure()
    study.report()
    if settings.out is not None:
        publish(study, settings.out)


if __name__ == "__main__":
    main()
