"""What the pages suppose to be there, small: photographs, X-rays, tables, weights."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from dicom_files import dicom_bytes
from page_commands import ROOT
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FILMS = 40
_SIDE = 530  # above what the guide stores


def make_checkout(folder: Path) -> None:
    """What pages name of the checkout that they are read in, and the commands of an installation in `bin`."""
    for name in ("benchmarks", "data_pipelines", "launchers", "tests", "trainer", "bitscale"):
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / "bin").mkdir()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    for name, entry in scripts.items():
        module, _, function = entry.partition(":")
        path = folder / "bin" / name
        path.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
        path.chmod(0o755)


def make_photos(folder: Path, seed: int = 0) -> None:
    """`folder/{cats,dogs}/*.jpg`, a class brighter than the other, and beside the folder a table of them."""
    generator = np.random.default_rng(seed)
    rows = ["path,label"]
    for number, name in enumerate(["cats", "dogs"] * 20):
        path = folder / name / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 128, (48, 64, 3)) + 100 * (name == "dogs")
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        rows.append(f"{name}/{number}.jpg,{name}")
    folder.with_suffix(".csv").write_text("\n".join(rows))


def make_films(folder: Path) -> None:
    """`films/{2019,2020}/*.dcm` of twenty patients, and the table of the guide."""
    generator = np.random.default_rng(0)
    rows = ["path,patient,Effusion,Nodule,site"]
    for number in range(_FILMS):
        effusion, nodule = number % 2, number // 2 % 2
        pixels = generator.integers(0, 2000, (_SIDE, _SIDE + 20)) + 1000 * effusion + 500 * nodule
        date = f"{2019 + effusion}{1 + number % 12:02}01"
        encoded = dicom_bytes(pixels.astype(np.uint16), BitsStored=12, PatientID=f"p{number // 2}", StudyDate=date)
        name = f"{2019 + effusion}/{number:04}.dcm"
        (folder / "films" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "films" / name).write_bytes(encoded)
        rows.append(f"{name},p{number // 2},{effusion},{nodule},{'AB'[number % 4 // 2]}")
    (folder / "films.csv").write_text("\n".join(rows))


def make_medmnist(path: Path) -> None:
    """A file as those of MedMNIST: grey pictures of 28 pixels in two classes, one brighter than the other."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 60), ("val", 20), ("test", 20)):
        labels = (np.arange(count) % 2).astype(np.uint8)
        pixels = generator.integers(0, 128, (count, 28, 28)) + 100 * labels[:, None, None]
        arrays |= {f"{split}_images": pixels.astype(np.uint8), f"{split}_labels": labels[:, None]}
    np.savez(path, **arrays)


def make_inputs(page: str, folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Make what a page supposes below `folder`; returns the variables that its reader sets."""
    make_photos(folder / "photos")
    make_photos(folder / "other_photos", seed=1)
    if page == "data.md":
        _run("bitscale prepare image-folder --root photos --out made_tars", folder, environment)
        (folder / "tars").symlink_to(folder / "made_tars")
    if page == "export.md":
        make_medmnist(folder / "pneumoniamnist.npz")
    if page not in ("from_dicom_to_a_number.md", "datasets/README.md"):
        return {}
    make_films(folder)
    if page == "datasets/README.md":
        return {}
    _run(
        "bitscale pretrain embedded --out weights --schedule.steps 4 --schedule.warmup-steps 1"
        " --global-batch-size 16 --eval-every 4 && "
        "bitscale prepare csv --root films --table films.csv --label-columns Effusion Nodule --patient-column patient"
        " --xray-size 512 --out data/other_site",
        folder,
        environment,
    )
    runs = "runs/weights/films/full-shot-seed"
    return {"WEIGHTS": "weights", "RUN": f"{runs}-0", "OTHER": f"{runs}-1"}


def _run(command: str, folder: Path, environment: Mapping[str, str]) -> None:
    subprocess.run(["bash", "-ec", command], cwd=folder, env=environment, check=True, capture_output=True, timeout=300)
