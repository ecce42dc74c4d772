"""What no job can be made of is refused, and what is hardly meant is warned of."""

import re
from dataclasses import replace
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_job import job_of
from tiny_sets import tiny_set

from data_pipelines.common.errors import InputError
from trainer.config import DataConfig, RuntimeConfig, ScheduleConfig
from trainer.splits import folders_of, open_split
from trainer.training.job import make_job
from trainer.training.run import LaunchOptions, run


@pytest.mark.parametrize(("alpha", "least"), [(0.0, 8), (0.1, 16)])
def test_a_batch_too_small_for_its_ranks_is_refused(alpha: float, least: int, skewed: Path, tmp_path: Path) -> None:
    config = job_of(skewed, mixup_alpha=alpha).config
    engine: Any = SimpleNamespace(rank=0, world_size=8)
    with pytest.raises(InputError, match=f"^--global-batch-size 4 is too small for 8 ranks; raise it to {least} or"):
        run(config, LaunchOptions(tmp_path / "run"), engine, {})


def test_a_split_that_only_some_sets_have_is_refused(lungs: list[Path], tmp_path: Path) -> None:
    whole = tiny_set(tmp_path / "whole", [[1, 0]], ("edema", "mass"), splits=("train", "val"))
    data = DataConfig(sets=(str(whole), str(lungs[0])))
    assert open_split(data, folders_of(data, RuntimeConfig()), "train", 0) is not None
    assert open_split(data, folders_of(data, RuntimeConfig()), "test", 0) is None
    with pytest.raises(InputError, match=r"one has no val split, the other sets have one"):
        open_split(data, folders_of(data, RuntimeConfig()), "val", 0)
    untrained = tiny_set(tmp_path / "untrained", [0], ("a",), splits=("test",))
    with pytest.raises(InputError, match="untrained has no train split"):
        job_of(untrained)


def test_what_is_hardly_meant_is_warned_of(lungs: list[Path], tmp_path: Path) -> None:
    assert job_of(*lungs).warnings == ()
    alike = tiny_set(tmp_path / "alike", [[1, 0], [0, 1]], ("Edema", "mass"), name="alike")
    (warning,) = job_of(*lungs, alike).warnings
    assert warning == "not joined, although they look alike: 'edema' and 'Edema'"
    assert job_of(alike).warnings == ()


@pytest.mark.parametrize(
    ("labels", "is_told"),
    [
        ([[0, 0], [0, nan]], True),
        ([[1, 0], [1, nan], [nan, 0]], True),
        ([[1, 0], [0, nan]], False),
    ],
)
def test_findings_without_anything_to_tell_apart_are_told(
    labels: list[list[float]], is_told: bool, tmp_path: Path
) -> None:
    films = tiny_set(tmp_path / "films", labels, ("edema", "mass"))
    assert any("no finding has both positives and negatives" in line for line in job_of(films).warnings) == is_told


def test_joined_sets_of_different_views_are_warned_of(lungs: list[Path], tmp_path: Path) -> None:
    front = tiny_set(tmp_path / "front", [[1, 0], [0, 1]], ("edema", "mass"), name="front", views=("PA", "AP"))
    lying = tiny_set(tmp_path / "lying", [[1, 0], [0, 1]], ("edema", "mass"), name="lying", views=("AP Supine",))
    sides = tiny_set(tmp_path / "sides", [[1, 0], [0, 1]], ("edema", "mass"), name="sides", views=("PA", "L"))
    assert job_of(front, lying).warnings == job_of(sides).warnings == job_of(*lungs).warnings == ()
    (warning,) = job_of(sides, lungs[0]).warnings
    assert "are not known, those of the other joined sets are (sides: PA, L)" in warning
    (warning,) = job_of(front, sides, classes=("mass",)).warnings
    assert "differ in their views (front: PA, AP; sides: PA, L)" in warning
    assert "--views frontal" in warning


def test_joined_xrays_of_different_sizes_are_warned_of(tmp_path: Path) -> None:
    names = {"small": 8, "alike": 8, "large": 12}
    metadata = {"patients": "apart", "classes": ("edema", "mass")}
    small, alike, large = (
        tiny_set(tmp_path / name, [[1, 0], [0, 1]], name=name, side=side, xray_size=side, **metadata)
        for name, side in names.items()
    )
    assert job_of(small, alike).warnings == job_of(large).warnings == ()
    (warning,) = job_of(small, large).warnings
    assert "different sizes in pixels (small: 8, large: 12)" in warning
    assert "--xray-size" in warning
    photographs = tiny_set(tmp_path / "photographs", [[1, 0], [0, 1]], side=12, classes=metadata["classes"])
    assert job_of(small, photographs).warnings == ()


def test_whole_and_square_xrays_are_not_joined(tmp_path: Path) -> None:
    metadata = {"patients": "apart", "classes": ("edema", "mass"), "xray_size": 8}
    square = tiny_set(tmp_path / "square", [[1, 0]], **metadata)
    whole = tiny_set(tmp_path / "whole", [[1, 0]], xray_cut="whole", **metadata)
    with pytest.raises(InputError, match=r"whole are whole, .*square are central squares: .*prepare these sets again"):
        job_of(square, whole)


@pytest.mark.parametrize(
    ("schedule", "message", "shorter"),
    [
        (
            ScheduleConfig("step", epochs=None, steps=90, warmup_steps=30),
            "30 steps does not end before the first decay, at step 30 of 90",
            {"warmup_steps": 9},
        ),
        (
            ScheduleConfig("cosine", epochs=None, steps=20, warmup_steps=100),
            "100 steps does not end before the end of the run, at step 20 of 20",
            {"warmup_steps": 2},
        ),
        (
            ScheduleConfig("step", epochs=None, steps=20, warmup_epochs=15, warmup_steps=0),
            r"68 steps \(15 epochs\) does not end before the first decay, at step 7 of 20",
            {"warmup_epochs": None, "warmup_steps": 2},
        ),
    ],
)
def test_a_schedule_that_does_not_decay_is_refused(
    schedule: ScheduleConfig, message: str, shorter: dict[str, Any], skewed: Path
) -> None:
    config = replace(job_of(skewed).config, schedule=schedule)
    typed = " ".join(f"--schedule.{name.replace('_', '-')} {value}" for name, value in shorter.items())
    with pytest.raises(InputError, match=rf"{message}; shorten it \({typed}\).* --schedule.allow-no-decay"):
        make_job(config, Path("run"))
    assert make_job(replace(config, schedule=replace(schedule, **shorter)), Path("run")).warnings == ()
    (warning,) = make_job(replace(config, schedule=replace(schedule, allow_no_decay=True)), Path("run")).warnings
    assert re.search(message, warning)
    probe = replace(config, mode="probe")  # which takes no steps
    assert make_job(probe, Path("run")).warnings == ()


def test_classes_without_training_images(tmp_path: Path) -> None:
    folder = tiny_set(tmp_path / "some", [0, 0, 2], ("cat", "dog", "eel"))
    with pytest.raises(
        InputError, match=r"no training image: dog \(0\); choose the others with --data.classes, .*at-most"
    ):
        job_of(folder)
    with pytest.raises(InputError, match=r"1 shots asked for, .* fewer training images: dog \(0\)"):
        job_of(folder, shots=1)
    assert job_of(folder, classes=("cat", "eel")).warnings == ()
    job = job_of(folder, shots_at_most=True)
    assert (len(job.train), job.train.num_classes) == (3, 3)
    assert job.warnings == ("classes with fewer than 1 training images: dog (0)",)
    job = job_of(folder, shots=2, shots_at_most=True)
    assert job.train.labels.tolist() == [0, 0, 2]
    assert job.warnings == ("classes with fewer than 2 training images: dog (0), eel (1)",)


def test_frozen_backbones_take_no_steps(skewed: Path) -> None:
    config = job_of(skewed).config
    assert make_job(replace(config, mode="probe"), Path("run")).total_steps == 0
