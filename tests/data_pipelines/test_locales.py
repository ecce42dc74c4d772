"""Names, classes, keys and splits are the same under every locale, and so are the bytes of what is prepared."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_pipelines.common.path_text import path_of

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["Äpfel/ä.png", "Äpfel/日本.png", "K\udcfc/1.png", "K\udcfc/2.png", "zebra/é/3.png", "zebra/4"]
PREPARE = """
import json, sys
from pathlib import Path
from data_pipelines.datasets.user_images import csv_table, image_folder
from data_pipelines.datasets.webdataset import webdataset
from data_pipelines.prepare import Output, prepare
from data_pipelines.image_files.folder_scan import text_of
from trainer.evaluation.predicting.inputs import inputs_of
place, out, column = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
pictures, table, tars = place / "bilder", place / "bilder" / "t.csv", place / "tars"
sets = {
    "image-folder": image_folder(pictures, 0.3, 0.2),
    "csv": csv_table(pictures, table, label_column=column, fact_columns=(column,), val_fraction=0.3),
    "webdataset": webdataset(tars, val_fraction=0.3, classes_file=place / "classes.txt"),
}
files = [text_of(image.image) for name in ("image-folder", "csv") for image in sets[name].images]
predicted = [[item.name for item in inputs_of(source).each] for source in (pictures, table, tars)]
for name, raw in sets.items():
    prepare(raw, Output(out / name, max_bad=0.9))
contents = {name: [raw.classes, [(image.key, image.split) for image in raw.images]] for name, raw in sets.items()}
print(json.dumps([contents, files, predicted]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in folders, a table that names them, and the same in a tar."""
    folder = tmp_path_factory.mktemp("place")
    rows = ["path,Größe"]
    (folder / "tars").mkdir()
    with tarfile.open(folder / "tars" / "Ä.tar", "w", encoding="utf-8") as tar:
        for number, name in enumerate(NAMES):
            path = folder / "bilder" / path_of(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            Image.new("RGB", (6, 5), (number, 9, 9)).save(buffer, "PNG")
            try:
                path.write_bytes(buffer.getvalue())
            except OSError:
                pytest.skip("this file system takes only UTF-8 names")
            rows.append(f"{name},{name.split('/')[0].replace(chr(0xDCFC), 'ü')}")
            for suffix, content in ((".png", buffer.getvalue()), (".cls", "Äpfel".encode())):
                info = tarfile.TarInfo(f"{name.split('.')[0]}{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (folder / "bilder" / "t.csv").write_bytes("\n".join(rows).encode(errors="surrogateescape"))
    (folder / "classes.txt").write_text("Äpfel\nBirnen\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def latin1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What makes a Latin-1 locale."""
    folder = tmp_path_factory.mktemp("locales")
    if shutil.which("localedef") is None:
        pytest.skip("localedef is not installed")
    name = "de_DE.ISO-8859-1"
    done = subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(folder / name)], capture_output=True, text=True
    )
    if not (folder / name).is_dir():
        pytest.skip(f"no Latin-1 locale can be made: {done.stderr.strip()}")
    return {"LOCPATH": str(folder), "LC_ALL": name}


def outcome(place: Path, out: Path, **variables: str) -> tuple[list[Any], dict[str, str]]:
    """What the readers say, and the sums of the files of the prepared sets."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))
    }
    environment |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, "-c", PREPARE, str(place), str(out), "Größe"]
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    files = [path for path in out.rglob("*") if path.is_file()]
    sums = {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return json.loads(done.stdout), sums


@pytest.fixture(scope="module")
def expected(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], dict[str, str]]:
    return outcome(place, tmp_path_factory.mktemp("utf8"), LC_ALL="C.UTF-8")


@pytest.mark.slow
def test_names_are_those_of_the_files(place: Path, expected: tuple[list[Any], dict[str, str]]) -> None:
    (contents, files, predicted), _ = expected
    assert contents["image-folder"][0] == ["K\udcfc", "zebra", "Äpfel"]
    assert contents["csv"][0] == ["Kü", "zebra", "Äpfel"]
    assert sorted(files) == sorted([f"{place}/bilder/{name}" for name in NAMES] * 2)
    assert [sorted(names) for names in predicted[:2]] == [sorted(NAMES)] * 2
    assert {key for key, _ in contents["webdataset"][1]} >= {"Ä/Äpfel/ä", "Ä/zebra/4"}


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["C", "Latin-1"])
def test_sets_are_the_same_under_every_locale(
    locale: str,
    place: Path,
    tmp_path: Path,
    expected: tuple[list[Any], dict[str, str]],
    request: pytest.FixtureRequest,
) -> None:
    variables = {"LC_ALL": "C"} if locale == "C" else request.getfixturevalue("latin1")
    assert outcome(place, tmp_path, **variables) == expected
