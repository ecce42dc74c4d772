"""What a configuration says of the data is what the job does."""

from collections import Counter
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from augmentation_values import OTHER_VALUES, before_and_after
from tiny_sets import tiny_set

from data_pipelines.common.errors import InputError
from data_pipelines.loading import torch_loader
from data_pipelines.loading.sampler import BatchSampler
from data_pipelines.loading.views import AUTHORS_TRANSLATION, PAPER_TRANSLATION, Augmentation
from data_pipelines.shards.index import Index
from trainer.config import Config, DataConfig, RuntimeConfig, ScheduleConfig
from trainer.splits import folders_of, open_split
from trainer.training.job import Job, make_augmentation, make_job

CPU = SimpleNamespace(rank=0, world_size=1, device=torch.device("cpu"), threads=1)
NAN = np.nan


def job_of(*folders: Path, batch: int = 4, epochs: float = 3, **data: Any) -> Job:
    config = Config(
        global_batch_size=batch,
        data=DataConfig(sets=tuple(map(str, folders)), image_size=32, resize=32, **data),
        schedule=ScheduleConfig("cosine", epochs=epochs, warmup_steps=0),
        runtime=RuntimeConfig(device="cpu", loader="torch"),
    )
    return make_job(config, Path("run"))


def epochs_of(job: Job, count: int) -> np.ndarray:
    """The samples of the first epochs, [count, images of an epoch]."""
    batch, size = job.order.global_batch_size, job.order.epoch_size
    steps = [job.order.request(step).samples for step in range(-(-count * size // batch))]
    return np.concatenate(steps)[: count * size].reshape(count, size)


def config_with(augmentation: Augmentation) -> Config:
    """The configuration that asks for this augmentation."""
    other_names = {"policy": "train_view", "size": "image_size"}
    values = {
        other_names.get(field.name, field.name): getattr(augmentation, field.name) for field in fields(augmentation)
    }
    seed, group = values.pop("seed"), values.pop("mixup_group")
    data = DataConfig(sets=("any",), mixup_weight="step" if group > 2 else "pair", **values)
    return Config(seed=seed, global_batch_size=OTHER_VALUES["mixup_group"], data=data)


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_every_setting_of_augmentation_arrives(name: str) -> None:
    for augmentation in before_and_after(name):
        made = make_augmentation(config_with(augmentation), may_flip=True)
        assert made == augmentation, "hand it on in make_augmentation of trainer/training/job.py"


@pytest.mark.parametrize("shuffle", ["full", "blocks"])
def test_shuffle(shuffle: Any, skewed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.loading.sampler.BLOCK", 2)
    monkeypatch.setattr("data_pipelines.loading.sampler.WINDOW", 6)
    job = job_of(skewed, shuffle=shuffle)
    expected = BatchSampler(18, 4, seed=0, shuffle=shuffle)
    other = BatchSampler(18, 4, seed=0, shuffle="full" if shuffle == "blocks" else "blocks")
    for step in range(9):
        assert job.order.request(step).samples.tolist() == expected.request(step).samples.tolist()
    assert any(job.order.request(s).samples.tolist() != other.request(s).samples.tolist() for s in range(9))


def test_balance_of_classes(skewed: Path) -> None:
    assert (np.sort(epochs_of(job_of(skewed), 3)) == np.arange(18)).all()
    job = job_of(skewed, balance="class")
    for epoch in epochs_of(job, 5):  # of 18 images six of each class: a whole number, so it is exact
        assert np.bincount(job.train.labels[epoch]).tolist() == [6, 6, 6]


def test_balance_of_sets(lungs: list[Path]) -> None:
    job = job_of(*lungs, balance="set")
    for epoch in epochs_of(job, 5):
        assert Counter(job.train.origins[shard] for shard in job.train.shard[epoch]) == {"one": 4, "other": 4}
    with pytest.raises(InputError, match="a balance of classes needs one label per image"):
        job_of(*lungs, balance="class")


def test_join(lungs: list[Path]) -> None:
    assert job_of(*lungs).train.classes == ("mass", "edema")
    job = job_of(*lungs, join="union")
    assert job.train.classes == ("mass", "edema", "hernia", "nodule")
    np.testing.assert_array_equal(job.train.labels[[0, 1, 2]], [[1, 0, NAN, NAN], [0, 1, 1, NAN], [NAN, 1, NAN, 0]])
    assert job.metadata["classes"] == ["mass", "edema", "hernia", "nodule"]
    assert job_of(*lungs).train.fingerprint != job.train.fingerprint


def test_findings_and_classes_by_name(lungs: list[Path], skewed: Path) -> None:
    job = job_of(*lungs, classes=("nodule", "mass"))
    assert job.train.classes == ("nodule", "mass")
    assert len(job.train) == 8
    assert job_of(lungs[0], classes=("hernia",)).train.classes == ("hernia",)
    with pytest.raises(InputError, match=r"'hernia,nodule'; separate names by spaces: hernia nodule$"):
        job_of(*lungs, classes=("hernia,nodule",))
    with pytest.raises(InputError, match="did you mean 'nodule'"):
        job_of(*lungs, classes=("noddule",))
    job = job_of(skewed, classes=("dog", "cat"))
    assert job.train.classes == ("dog", "cat")
    assert job.train.labels.tolist() == [1] + [0] * 5


@pytest.mark.parametrize(
    ("data", "images"), [({}, 7), ({"balance": "class"}, 7), ({"shuffle": "blocks"}, 7), ({"classes": ("a",)}, 3)]
)
def test_epochs_are_counted_in_images_shown(data: dict[str, Any], images: int, tmp_path: Path) -> None:
    """Of nine rows, four show two images with two labels each, which count once."""
    pictures = [0, 0, 1, 1, 2, 3, 4, 5, 6]
    folder = tiny_set(
        tmp_path / "pairs", [0, 1, 0, 1, 0, 0, 1, 1, 1], ("a", "b"), pictures=pictures, equal_images="uniform"
    )
    job = job_of(folder, epochs=5, **data)
    assert job.order.epoch_size == images
    assert job.total_steps == -(-5 * images // 4)
    if data.keys() <= {"shuffle"}:
        assert len(job.train) == 9
        shown = np.array(pictures)[epochs_of(job, 6)]
        assert (np.sort(shown, axis=1) == np.arange(7)).all()


def test_translation_is_the_papers_or_its_programs(skewed: Path) -> None:
    assert job_of(skewed, train_view="xray_affine").augmentation.translation == PAPER_TRANSLATION == 0.15
    assert job_of(skewed, translation=AUTHORS_TRANSLATION).augmentation.translation == AUTHORS_TRANSLATION == 0.25


def test_every_setting_of_augmentation_reaches_it(skewed: Path) -> None:
    plain = job_of(skewed, mixup_alpha=0.1).augmentation
    assert (plain.border, plain.mixup_group) == ("black", 2)
    assert (plain.randaugment_space, plain.randaugment_on) == ("torchvision", "crop")
    changed = job_of(
        skewed,
        batch=6,
        mixup_alpha=0.1,
        border="reflect",
        mixup_weight="step",
        randaugment_space="ildoonet",
        randaugment_on="image",
    ).augmentation
    assert (changed.border, changed.mixup_group) == ("reflect", 6)
    assert (changed.randaugment_space, changed.randaugment_on) == ("ildoonet", "image")


def test_randaugment_that_dali_lacks_is_done_by_torch_or_refused(skewed: Path, tmp_path: Path) -> None:
    config = job_of(skewed, randaugment_ops=2, randaugment_space="ildoonet").config
    assert make_job(config, tmp_path).loader_name == "torch"
    with pytest.raises(InputError, match=r"cannot be had with DALI.*take --loader torch"):
        make_job(replace(config, runtime=RuntimeConfig(device="cpu", loader="dali")), tmp_path)


def test_augmentation_is_for_training_alone(skewed: Path) -> None:
    job = job_of(
        skewed,
        train_view="xray_affine",
        eval_view="squash",
        randaugment_ops=2,
        randaugment_magnitude=7,
        mixup_alpha=0.1,
    )
    train = job.augmentation
    assert (train.policy, train.randaugment_ops, train.randaugment_magnitude) == ("xray_affine", 2, 7)
    assert (train.flip, train.mixup_alpha, job.order.group_size) == (True, 0.1, 2)
    positions, sides = np.arange(50), np.full(50, 8)
    seen = job.evaluation.views(positions, sides, sides)
    assert (seen.operations, seen.warp, job.evaluation.mixup(positions)) == (None, None, None)
    assert not seen.flip.any()


def test_sets_that_may_not_be_mirrored_are_not(skewed: Path, tmp_path: Path) -> None:
    glyphs = tiny_set(tmp_path / "glyphs", [0], ("a",), horizontal_flip=False)
    assert not job_of(glyphs).augmentation.flip
    assert job_of(skewed).augmentation.flip
    assert not job_of(skewed, flip=False).augmentation.flip


def test_metric_and_patients(tmp_path: Path) -> None:
    folder = tiny_set(tmp_path / "covid", [0, 1], ("a", "b"), metric="auc", patients="may leak")
    job = job_of(folder)
    assert (job.train.metric, job.train.patients, job.metadata["metric"]) == ("auc", "may leak", "auc")


def test_staged_sets_are_the_same_sets(skewed: Path, lungs: list[Path], tmp_path: Path) -> None:
    data = DataConfig(sets=tuple(map(str, lungs)))
    here = folders_of(data, RuntimeConfig())
    there = folders_of(data, RuntimeConfig(cache_dir=str(tmp_path / "node")))
    assert here == lungs
    assert all((tmp_path / "node") in folder.parents for folder in there)
    one, other = (open_split(data, folders, "train", seed=0) for folders in (here, there))
    assert one is not None
    assert other is not None
    assert one.fingerprint == other.fingerprint
    assert all((tmp_path / "node") in shard.parents for shard in other.shards)
    assert [other.encoded(row).tobytes() for row in range(8)] == [one.encoded(row).tobytes() for row in range(8)]
    assert there == folders_of(data, RuntimeConfig(cache_dir=str(tmp_path / "node")))

    config = job_of(skewed).config
    staged = make_job(replace(config, runtime=replace(config.runtime, cache_dir=str(tmp_path / "node"))), Path("run"))
    assert (tmp_path / "node") in staged.train.shards[0].parents
    assert staged.metadata == make_job(config, Path("run")).metadata


# Of 18 images in batches of 4, each shown once or twice in an epoch.
@pytest.mark.parametrize(("times", "warmup_steps"), [(1, 9), (2, 18)])
def test_warm_up_in_epochs_counts_the_images_shown(
    times: int, warmup_steps: int, skewed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Index, "weights", lambda index, _: np.full(len(index), float(times)))
    schedule = ScheduleConfig("cosine", epochs=6, warmup_epochs=2, warmup_steps=0)
    job = make_job(replace(job_of(skewed).config, schedule=schedule), Path("run"))
    peak = 0.03 * 4 / 256
    rates = [job.schedule(step) for step in range(job.total_steps)]
    assert len(rates) == 27 * times
    assert rates[: warmup_steps + 1] == pytest.approx([peak * step / warmup_steps for step in range(warmup_steps + 1)])
    assert rates.index(max(rates)) == warmup_steps


def test_bytes_are_asked_for_before_they_are_decoded(skewed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    monkeypatch.setattr(Index, "read_ahead", lambda _, rows: asked.append(rows.tolist()))
    ahead = {}
    for depth in (1, 4):
        asked.clear()
        job = job_of(skewed)
        job = replace(job, config=replace(job.config, runtime=RuntimeConfig(read_ahead=depth)))
        batches = job.training_batches(CPU, first_step=2)
        shown = [batch.samples.tolist() for (batch,) in islice(batches, 3)]
        ahead[depth] = len(asked)
        assert asked == [job.order.request(2 + step).samples.tolist() for step in range(len(asked))]
        assert shown == asked[:3]
    assert ahead[4] - ahead[1] == 3


def test_one_label_of_several_findings(tmp_path: Path) -> None:
    labels = [[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0]]
    folder = tiny_set(tmp_path / "xrays", labels, ("mass", "edema", "hernia"), splits=("train", "test"))
    job = job_of(folder, one_label=True)
    assert (job.train.task, job.train.metric, job.metadata["task"]) == ("single_label", "top1", "single_label")
    assert job.test is not None
    assert job.train.labels.tolist() == job.test.labels.tolist() == [0, 1, 2, 0]
    # Findings that are not chosen count too: the image of mass and edema shows more than one.
    chosen = job_of(folder, one_label=True, classes=("hernia", "mass"))
    assert chosen.train.classes == ("hernia", "mass")
    assert chosen.train.labels.tolist() == [1, 0, 1]
    few = job_of(folder, one_label=True, shots=1)
    assert len(few.train) == 3
    assert few.test is not None
    assert len(few.test) == 4
    assert few.warnings == ()


def test_a_checkpoint_names_its_sets(lungs: list[Path], skewed: Path) -> None:
    assert job_of(*lungs).metadata["sets"] == ["one", "other"]
    assert job_of(skewed, shots=1).metadata["sets"] == ["tiny"]


def test_scaled_decode_reaches_the_loader_and_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(torch_loader, "batches", lambda *_, scaled_decode=False, **__: asked.append(scaled_decode))
    folder = tiny_set(tmp_path / "set", [0, 1, 0, 1], ("cat", "dog"))
    for scaled in (True, False):
        job = job_of(folder, scaled_decode=scaled)
        assert job.metadata["scaled_decode"] is scaled
        assert job.metadata["shorter_side"] is None
        job.load(CPU, job.train, [], job.evaluation)
    assert asked == [True, False]
    config = replace(job.config, data=replace(job.config.data, scaled_decode=True))
    with pytest.raises(InputError, match=r"cannot be had with DALI.*take --loader torch"):
        make_job(replace(config, runtime=RuntimeConfig(device="cpu", loader="dali")), tmp_path)
