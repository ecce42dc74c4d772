"""What of a finished study is kept with the results."""

import shutil
from pathlib import Path

from benchmarks.lib.results import header
from benchmarks.lib.transfer_distance.stages import PROXIMITY, REPORT, Study
from data_pipelines.common.files import write_json

_KEPT = (".md", ".png", ".csv")


def publish(study: Study, out: Path) -> None:
    """Copy the report and the proximities to a folder, without page, LaTeX and vector figures, and write study.json:
    machine, sizes, minutes of each stage."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted((study.folder / REPORT).iterdir()):
        if path.suffix in _KEPT:
            shutil.copy(path, out / path.name)
    shutil.copy(study.folder / PROXIMITY / "proximity.json", out / "proximity.json")
    size = {"pretraining_steps": study.size.pretraining_steps, "tuning_steps": list(study.size.tuning_steps)}
    write_json(out / "study.json", header("transfer_distance") | size | {"minutes": study.minutes()})
