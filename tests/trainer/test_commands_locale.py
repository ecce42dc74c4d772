"""Names are the same under every locale: all commands work where the system's encoding is ASCII."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
# One process for all commands: importing torch for each would take most of the time.
RUN_ALL = """
import json, runpy, sys
for words in json.load(open(sys.argv[-1], encoding="ascii")):
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, (words, end.code)
"""


def write_pictures(folder: Path) -> Path:
    for split in ("train", "test"):
        for number, name in enumerate(("Kätzchen", "собака")):
            (folder / split / name).mkdir(parents=True)
            for image in range(4):
                Image.new("RGB", (32, 32), (number * 200, image, 0)).save(folder / split / name / f"{image} é.png")
    return folder


@pytest.mark.slow
def test_all_commands_work_where_names_are_not_of_the_locale(tmp_path: Path) -> None:
    here = tmp_path / "é"
    pictures, prepared, run = write_pictures(here / "bilder"), here / "ü", here / "runs" / "дом"
    tiny = ["--schedule.steps", "1", "--schedule.warmup-steps", "0", "--global-batch-size", "4", "--model.name"]
    on_cpu = ["--device", "cpu", "--threads", "1"]
    train = [*tiny, "r14x0.5", "--data.image-size", "32", "--data.resize", "32", *on_cpu]
    commands = [
        ["data_pipelines/prepare.py", "image-folder", "--root", pictures, "--out", prepared],
        ["trainer/pretrain.py", "--data.sets", prepared, "--out", run, *train],
        ["trainer/predict.py", run, pictures / "test", "--out", here / "ö.csv", *on_cpu],
        ["trainer/evaluate.py", run, "--resamples", "100", *on_cpu],
        ["trainer/export.py", run, "--out", here / "weights"],
        ["trainer/report.py", run, "--out", here / "report"],
        ["trainer/status.py", run],
        ["data_pipelines/inspect.py", prepared, "--out", here / "ß.png", "--images", "2"],
    ]
    listed = tmp_path / "commands.json"
    listed.write_text(json.dumps([list(map(str, command)) for command in commands]), encoding="ascii")
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, str(listed)],
        cwd=ROOT,
        env=os.environ | LOCALE,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    manifest = json.loads((prepared / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["classes"] == ["Kätzchen", "собака"]
    assert (here / "ö.csv").read_text(encoding="utf-8").count("Kätzchen/0 é.png") == 1
    assert (run / "result.json").is_file()
    assert (here / "report" / "report.md").is_file()
