"""The sets of the study of transfer and distance: what is in which half, and what is made without real images."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lib.transfer_distance.raw_sets import CLOTHES_A, SOURCES, TARGETS, clothes_files, patient_of
from benchmarks.lib.transfer_distance.stages import FEW_SHOTS, HYPOTHESES, MANY_SHOTS, Size, study_in
from data_pipelines.common.errors import InputError
from data_pipelines.image_files.png import encode_png
from trainer.reporting.analysis.claim_file import read_claims
from trainer.reporting.names import SCRATCH

SETS = {each.name: each for each in (*SOURCES, *TARGETS)}
PICTURE = encode_png(np.full((32, 32), 128, dtype=np.uint8))


def zipped(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, PICTURE)
    return path


def written(name: str, place: Path, folder: Path) -> set[str]:
    write = SETS[name].write
    assert write is not None
    write(place, folder)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_halves_of_the_xrays_share_no_patient(tmp_path: Path) -> None:
    names = [f"Pneumonia/{patient:08d}_{visit:03d}.png" for patient in range(40) for visit in (0, 7)]
    place = zipped(tmp_path / "covid-cxr.zip", [*names, "Covid-19/figure-1a.png"])
    source, target = (written(name, place, tmp_path / name) for name in ("xrays_a", "xrays_b"))
    assert source | target == {*names, "Covid-19/figure-1a.png", "table.csv"}
    patients = [{patient_of(name) for name in each} - {None} for each in (source, target)]
    assert min(map(len, patients)) > 5
    assert not patients[0] & patients[1]
    assert "Covid-19/figure-1a.png" in source  # nobody knows the patient


def test_each_patient_of_the_target_is_in_one_split(tmp_path: Path) -> None:
    names = [f"No_findings/{patient:08d}_{visit:03d}.png" for patient in range(60) for visit in (0, 1)]
    written("xrays_b", zipped(tmp_path / "covid-cxr.zip", names), tmp_path / "raw")
    rows = [line.split(",") for line in (tmp_path / "raw" / "table.csv").read_text(encoding="utf-8").splitlines()[1:]]
    splits = {patient: {row[3] for row in rows if row[2] == patient} for _, _, patient, _ in rows}
    assert {len(each) for each in splits.values()} == {1}
    assert set.union(*splits.values()) == {"train", "test"}


def test_photographs_are_grouped_by_wordnets_number(tmp_path: Path) -> None:
    names = ["n02643566_lionfish.JPEG", "n02667093_abaya.JPEG", "n07753592_banana.JPEG"]
    found = written("animals", zipped(tmp_path / "imagenet-samples.zip", names), tmp_path / "raw")
    assert {name.partition("/")[2] for name in found} == {
        "animal/n02643566_lionfish.JPEG",
        "thing/n02667093_abaya.JPEG",
    }


def test_clothes_of_source_and_target_are_other_classes() -> None:
    source, target = ({name.split("/")[1] for name, _ in clothes_files(seen)} for seen in (True, False))
    assert source == set(CLOTHES_A)
    assert target == {"Pullover", "Coat", "Sneaker", "Bag"}


def test_a_folder_does_for_a_zip(tmp_path: Path) -> None:
    (tmp_path / "cifar10-jpeg" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "cifar10-jpeg" / "train" / "cat" / "1.jpg").write_bytes(PICTURE)
    study = study_in(tmp_path / "work", tmp_path, Size())
    assert [each.name for each in study.sources()] == ["clothes_a", "phantoms", "cifar10"]
    place = SETS["cifar10"].found(tmp_path)
    assert place is not None
    assert written("cifar10", place, tmp_path / "raw") == {"train/cat/1.jpg"}


def test_without_real_images_the_embedded_sets_remain(tmp_path: Path) -> None:
    study = study_in(tmp_path, None, Size())
    assert [each.name for each in study.sources()] == ["clothes_a", "phantoms"]
    assert [each.name for each in study.targets()] == ["digits", "clothes_b"]


def test_a_folder_without_any_real_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has none of cifar10-jpeg\.zip.*leave out --real"):
        study_in(tmp_path, tmp_path, Size())


def test_hypotheses_name_cells_of_the_study() -> None:
    sources, targets = {each.name for each in SOURCES} | {SCRATCH}, {each.name for each in TARGETS}
    for claim in read_claims(HYPOTHESES).claim:
        for cells in (claim.cells, claim.first, claim.second):
            assert set(cells.source) <= sources
            assert set(cells.target) <= targets
            assert set(cells.shots) <= {*FEW_SHOTS, *MANY_SHOTS}
