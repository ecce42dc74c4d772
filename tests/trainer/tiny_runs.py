"""Films of a few patients, as a hospital would hand them over, and a run that was trained on them for two steps."""

import csv
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from data_pipelines.datasets.user_images import csv_table
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engines import ENGINES
from trainer.training.run import LaunchOptions, run

FINDINGS = ("Effusion", "Nodule")
SIDE = 32


def write_film(path: Path, number: int, patient: int, effusion: bool, nodule: bool) -> None:
    """A 12-bit film of 40 x 36 pixels."""
    pixels = np.random.default_rng(number).normal(1200, 150, (40, 36))
    pixels[28:] += 1200 * effusion
    pixels[8:14, 10:16] += 1500 * nodule
    stored = np.clip(pixels, 0, 4095).astype(np.uint16)
    film = pydicom.Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID, film.SOPInstanceUID, film.Modality = DigitalXRayImageStorageForPresentation, f"1.2.{number}", "DX"
    film.PatientID, film.PatientSex, film.PatientAge = f"patient {patient}", "MF"[patient % 2], f"{30 + patient:03d}Y"
    film.ViewPosition, film.PhotometricInterpretation, film.SamplesPerPixel = "PA", "MONOCHROME2", 1
    film.Rows, film.Columns = stored.shape
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 16, 12, 11, 0
    film.PixelData = stored.tobytes()
    film.save_as(path, enforce_file_format=True)


def write_films(folder: Path, count: int = 96, findings: tuple[str, ...] = FINDINGS, seed: int = 0) -> Path:
    """Films, two of each of the first 24 patients and one of each other; beside them films.csv: path, the findings, a
    site, a split."""
    folder.mkdir(parents=True)
    draws = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        patient = number // 2 if number < 48 else number
        has = draws.random(2) < 0.5
        write_film(folder / f"{number:03d}.dcm", seed * 1000 + number, patient, bool(has[0]), bool(has[1]))
        labels = ["" if draws.random() < 0.1 else int(value) for value in has]
        rows.append([f"{number:03d}.dcm", *labels, "AB"[patient % 2], ("train", "val", "test")[patient % 3]])
    with (folder / "films.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", *findings, "site", "split"], *rows])
    return folder


def prepare_films(films: Path, out: Path, findings: tuple[str, ...] = FINDINGS) -> Path:
    """The films as a prepared set of pictures of 32 pixels."""
    raw = csv_table(
        films,
        films / "films.csv",
        label_columns=findings,
        split_column="split",
        fact_columns=("site",),
        xray_size=SIDE,
    )
    prepare(raw, Output(out))
    return out


def train_tiny(data: Path, run_dir: Path, seed: int = 0, steps: int = 2) -> Path:
    """A run of few steps on a prepared set; returns its folder."""
    config = Config(
        name=run_dir.name,
        seed=seed,
        global_batch_size=8,
        precision="fp32",
        data=DataConfig(sets=(str(data),), image_size=SIDE, resize=SIDE, eval_view="squash"),
        model=ModelConfig("r14x0.5", head_init="fan_in"),
        optim=OptimConfig(base_lr=0.05, rescale_lr=False),
        schedule=ScheduleConfig("cosine", epochs=None, steps=steps, warmup_steps=0),
        runtime=RuntimeConfig(device="cpu", threads=1, eval_batch_size=16),
    )
    engine = ENGINES["ddp"](config.runtime, "fp32")
    run(config, LaunchOptions(run_dir), engine, {"kind": "transfer", "target_set": data.name, "source": "scratch"})
    return run_dir
