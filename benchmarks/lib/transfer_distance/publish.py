"""What of a finished study is kept with the results."""

import shutil
from pathlib import Path

from benchmarks.lib.results import header
from benchmarks.lib.transfer_distance.stages import PROXIMITY, REPORT, Study
from data_pipelines.common.files import write_json

_TEXTS = ("results.csv", "tables.csv", "claims.json")
_NOT_KEPT = "; [tables.tex](tables.tex) has the tables for LaTeX"


def publish(study: Study, out: Path) -> None:
    """Copy the report and the proximities to a folder, without page, LaTeX, vector figures and the path of the study,
    and write study.json: machine, steps, minutes of each stage."""
    out.mkdir(parents=True, exist_ok=True)
    report = study.folder / REPORT
    text = (report / "report.md").read_text(encoding="utf-8").replace(_NOT_KEPT, "")
    lines = [line for line in text.splitlines() if "(report.html)" not in line]
    (out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in _TEXTS:  # without the folder of the study, which is nobody else's
        content = (report / name).read_text(encoding="utf-8")
        (out / name).write_text(content.replace(f"{study.folder}/", ""), encoding="utf-8", newline="")
    for figure in sorted(report.glob("*.png")):
        if f"({figure.name})" in text:
            shutil.copy(figure, out / figure.name)
    shutil.copy(study.folder / PROXIMITY / "proximity.json", out / "proximity.json")
    size = {"pretraining_steps": study.size.pretraining_steps, "tuning_steps": list(study.size.tuning_steps)}
    write_json(out / "study.json", header("transfer_distance") | size | {"minutes": study.minutes()})
