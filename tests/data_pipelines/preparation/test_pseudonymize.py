"""Nothing in a prepared set of patients names one, and what leads back can be read by its owner alone."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import read_manifest
from data_pipelines.datasets.user_images import csv_table
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.preparation.pseudonymize import SALT_VARIABLE, salt, salt_path
from data_pipelines.shards.index import Index
from trainer.evaluation.statistics.predictions import columns_of

NAMES = ("MILLER", "GARCIA", "OKAFOR", "TANAKA", "NOWAK", "SILVA", "KOWALSKI", "HANSEN")


@pytest.fixture
def films(tmp_path: Path, photo: Callable, encode: Callable) -> Path:
    """Two films of each patient, one of them damaged, in folders that name the patients."""
    root = tmp_path / "films"
    rows = [("path", "edema", "patient", "view")]
    for number, name in enumerate(NAMES * 2):
        path = root / f"{name}_19500{number % 8 + 1}01" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photo(number, 40, 40, channels=1)))
        rows.append((str(path.relative_to(root)), str(number % 2), f"{name}^ANNA", "PA"))
    (root / "NOWAK_19500501" / "4.png").write_bytes(b"no picture")
    with (root / "films.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def prepared(films: Path, out: Path) -> Path:
    raw = csv_table(
        films,
        films / "films.csv",
        label_columns=("edema",),
        patient_column="patient",
        fact_columns=("view",),
        xray_size=32,
        val_fraction=0.3,
        test_fraction=0.3,
    )
    prepare(raw, Output(out, max_bad=0.5))
    return out


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def keys_of(folder: Path) -> dict[str, str]:
    """The split of each key."""
    splits = [split for split, content in read_manifest(folder)["splits"].items() if content["images"]]
    indexes = {split: Index.load(folder, split) for split in splits}
    return {key: split for split, index in indexes.items() for key in index.keys(np.arange(len(index)))}


def keymap_of(folder: Path) -> dict[str, dict[str, str]]:
    with folder.with_name(f"{folder.name}.keymap.csv").open(newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def test_no_file_of_the_set_names_a_patient(films: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = prepared(films, tmp_path / "set")
    for path, content in files_of(folder).items():
        for name in NAMES:
            assert name.encode() not in content.upper(), path
    printed = capfd.readouterr()
    assert not any(name in printed.out + printed.err for name in NAMES)
    assert "quarantine.csv" in {path.name for path in files_of(folder)}


def test_keymap_leads_back_and_is_for_its_owner_alone(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = prepared(films, tmp_path / "set")
    path = tmp_path / "set.keymap.csv"
    assert f"; {path} tells the file of each key; --max-bad 0 accepts none\n" in capsys.readouterr().err
    assert path.stat().st_mode & 0o777 == 0o600
    keymap = keymap_of(folder)
    with (films / "films.csv").open(newline="") as file:
        patient_of = {str(films / row["path"]): row["patient"] for row in csv.DictReader(file)}
    assert {row["file"] for row in keymap.values()} == set(patient_of)
    with (folder / "quarantine.csv").open(newline="") as file:
        ((bad, _),) = list(csv.reader(file))[1:]
    assert Path(keymap[bad]["file"]).parent.name == "NOWAK_19500501"
    assert keys_of(folder).keys() | {bad} == keymap.keys()
    # One number for all films of a patient, the index's own.
    numbers = {(patient_of[row["file"]], row["patient"]) for row in keymap.values()}
    assert len(numbers) == len(NAMES)
    index = Index.load(folder, "train")
    own = dict(zip(index.keys(np.arange(len(index))), index.group.tolist(), strict=True))
    assert all(int(keymap[key]["patient"]) == group for key, group in own.items())


def test_same_salt_same_bytes_and_another_salt_the_same_splits(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = prepared(films, tmp_path / "one" / "set"), prepared(films, tmp_path / "two" / "set")
    assert files_of(one) == files_of(two)
    monkeypatch.setenv(SALT_VARIABLE, str(tmp_path / "other"))
    other = prepared(films, tmp_path / "three" / "set")
    assert keys_of(one).keys().isdisjoint(keys_of(other))
    groups = [set(Index.load(folder, "train").group.tolist()) for folder in (one, other)]
    assert groups[0].isdisjoint(groups[1])
    assert read_manifest(one)["salt"] != read_manifest(other)["salt"]
    splits = [
        {keymap_of(folder)[key]["file"]: split for key, split in keys_of(folder).items()} for folder in (one, other)
    ]
    assert splits[0] == splits[1]
    assert len(set(splits[0].values())) > 1


def test_predictions_hold_hashed_keys_and_numbers_for_patients(films: Path, tmp_path: Path) -> None:
    index = Index.load(prepared(films, tmp_path / "set"), "train")
    columns = columns_of(index)
    assert all(len(key) == 32 and int(key, 16) >= 0 for key in columns["keys"])
    assert columns["patients"].max() < len(index)


def test_photographs_keep_their_names(write_set: Callable, tmp_path: Path, photo: Callable, encode: Callable) -> None:
    from data_pipelines.datasets.user_images import image_folder

    for name in ("cat", "dog"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "one.png").write_bytes(encode(photo(len(name), 40, 40)))
    prepare(image_folder(tmp_path / "raw", val_fraction=0.0, test_fraction=0.0), Output(tmp_path / "set"))
    assert set(keys_of(tmp_path / "set")) == {"cat/one_png", "dog/one_png"}
    assert not (tmp_path / "set.keymap.csv").exists()


def test_salt_is_drawn_once_and_kept_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SALT_VARIABLE, str(tmp_path / "new" / "salt"))
    drawn = salt()
    assert len(drawn) == 32
    assert salt() == drawn
    assert salt_path().stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["salt"]
    salt_path().chmod(0o644)
    with pytest.raises(InputError, match=r"can be read by others.*chmod 600"):
        salt()
    salt_path().chmod(0o600)
    salt_path().write_bytes(b"short")
    with pytest.raises(InputError, match="holds 5 bytes"):
        salt()
    monkeypatch.delenv(SALT_VARIABLE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert salt_path() == tmp_path / "config" / "bitscale" / "salt"
