"""Targets are fine-tuned as BiT-HyperRule says, and as the paper says where that differs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from options_with import options_with
from tiny_sets import tiny_set

from data_pipelines.common.errors import InputError
from data_pipelines.common.splits import Split
from data_pipelines.shards.index import Index
from trainer.config import Config
from trainer.finetuning import finetune
from trainer.finetuning.finetune import SCRATCH, Transfer, fine_tune, make_config, open_target
from trainer.optim.hyperrule import HyperRule
from trainer.training.job import make_job

CLASSES = ("few", "some", "many")
LABELS = [0] * 2 + [1] * 3 + [2] * 10
SPLITS: tuple[Split, ...] = ("train", "test")
ON_CPU = {"device": "cpu", "loader": "torch"}
Make = Callable[..., tuple[Config, HyperRule]]


def configured(target: Path, shots: str = "full", seed: int = 0, **options: Any) -> tuple[Config, HyperRule]:
    transfer = Transfer(SCRATCH, str(target), shots, seed, options_with(**ON_CPU | options))
    return make_config(transfer, "r14x0.5", open_target(transfer))


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A function that gives the configuration of a target of that name, prepared in a folder of another name."""
    folders: dict[tuple[str, int], Path] = {}

    def configuration(name: str, shots: str = "full", side: int = 8, **options: Any) -> tuple[Config, HyperRule]:
        if (name, side) not in folders:
            folder = tmp_path_factory.mktemp("targets") / "mine"
            folders[name, side] = tiny_set(folder, LABELS, CLASSES, name=name, side=side, splits=SPLITS)
        return configured(folders[name, side], shots, seed=3, **options)

    return configuration


@pytest.mark.parametrize("name", ["flowers102", "covidx"])
def test_full_sets_that_the_paper_samples_by_class(name: str, make: Make) -> None:
    config, _ = make(name)
    assert config.data.balance == "class"
    assert make(name, shots="1")[0].data.balance == "none"
    assert make(name, balance="none")[0].data.balance == "none"
    job = make_job(config, Path("run"))
    assert job.order.epoch_size == 15
    epoch = np.concatenate([job.order.request(step).samples for step in range(15)])[: 15 * 128]
    assert np.bincount(job.train.labels[epoch]).tolist() == [640, 640, 640]


@pytest.mark.parametrize("name", ["pets", "padchest_cl"])
def test_other_sets_are_shown_as_they_are_unless_asked(name: str, make: Make) -> None:
    assert make(name)[0].data.balance == "none"
    assert make(name, shots="1")[0].data.balance == "none"
    assert make(name, balance="class")[0].data.balance == "class"
    assert make(name, shots="2", balance="class")[0].data.balance == "class"


def test_it_is_the_manifest_that_names_a_set(tmp_path: Path) -> None:
    folder = tiny_set(tmp_path / "flowers102", LABELS, CLASSES, name="tulips", splits=SPLITS)
    config, _ = configured(folder)
    assert config.data.balance == "none"


@pytest.mark.parametrize("shots", ["full", "2"])
def test_xrays_of_one_finding_are_seen_as_in_pretraining(shots: str, make: Make) -> None:
    for side in (8, 100):  # whatever the rule would say of their size
        config, _ = make("padchest_cl", shots=shots, side=side)
        assert (config.data.image_size, config.data.train_view, config.data.eval_view) == (224, "xray_affine", "squash")
        assert config.data.resize >= 224
    assert make("padchest_cl", image_size=64)[0].data.image_size == 64
    assert make("padchest_cl", image_size=64)[0].data.train_view == "xray_affine"


@pytest.mark.parametrize("name", ["pets", "flowers102", "covidx"])
@pytest.mark.parametrize(("side", "resize", "size"), [(8, 160, 128), (95, 160, 128), (96, 512, 480)])
def test_other_targets_follow_the_rule(name: str, side: int, resize: int, size: int, make: Make) -> None:
    config, rule = make(name, side=side)
    data = config.data
    assert (data.image_size, data.resize) == (rule.size, rule.resize) == (size, resize)
    assert (data.train_view, data.eval_view) == ("resize_random_crop", "squash")
    assert (data.randaugment_ops, data.shuffle, data.mixup_alpha) == (0, "full", rule.mixup_alpha)
    assert config.schedule.steps == rule.schedule[-1] == 500
    assert (config.optim.base_lr, config.optim.rescale_lr, config.optim.weight_decay) == (0.001, False, 0.0)
    assert (config.global_batch_size, config.seed, config.optim.nesterov) == (128, 3, False)


def test_given_numbers_come_before_the_rule(make: Make) -> None:
    config, rule = make("pets", image_size=64, mixup_alpha=0.2, steps=7, base_lr=0.01, batch_size=16)
    assert (config.data.image_size, config.data.resize) == (64, 80)
    assert (config.data.mixup_alpha, config.schedule.steps, config.optim.base_lr) == (0.2, 7, 0.01)
    assert (rule.size, rule.mixup_alpha, rule.schedule[-1]) == (128, 0.0, 500)
    assert make("pets", image_size=64, resize=70)[0].data.resize == 70


def test_staged_targets(tmp_path: Path) -> None:
    """What decides the configuration is read where the set lies; the run copies it."""
    folder = tiny_set(tmp_path / "target", LABELS, CLASSES, name="covidx", splits=SPLITS)
    config, _ = configured(folder, cache_dir=str(tmp_path / "node"))
    assert config.data.balance == "class"
    assert config.name == "scratch/target/full-shot-seed-0"
    assert not (tmp_path / "node").exists()
    make_job(config, Path("run"))
    assert list((tmp_path / "node").rglob("*.tar"))


def test_several_findings_per_image_cannot_be_balanced_by_class(tmp_path: Path) -> None:
    folder = tiny_set(tmp_path / "findings", [[1, 0], [0, 1]], ("mass", "edema"), splits=SPLITS)
    config, _ = configured(folder, balance="class")
    with pytest.raises(InputError, match="a balance of classes needs one label per image"):
        make_job(config, Path("run"))


def test_images_with_one_finding_as_classes(tmp_path: Path) -> None:
    folder = tiny_set(tmp_path / "findings", [[1, 0], [0, 1], [1, 1], [1, 0]], ("mass", "edema"), splits=SPLITS)
    job = make_job(configured(folder, shots="1", one_label=True)[0], Path("run"))
    assert (job.train.task, sorted(job.train.labels)) == ("single_label", [0, 1])


def test_a_target_without_test_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mine has no test split.*prepare it again with one.*--test-fraction 0.3"):
        configured(tiny_set(tmp_path / "mine", LABELS, CLASSES, splits=("train", "val")))
    with pytest.raises(InputError, match="yours has no train split"):
        configured(tiny_set(tmp_path / "yours", LABELS, CLASSES, splits=("test",)))


def test_a_target_of_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is one class only, 'cat', and nothing to tell apart"):
        configured(tiny_set(tmp_path / "alone", [0] * 6, ("cat",), splits=SPLITS))


@pytest.fixture(scope="module")
def xrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set as `prepare --size 128` leaves it."""
    folder = tmp_path_factory.mktemp("xrays") / "lungs"
    return tiny_set(folder, LABELS, CLASSES, splits=SPLITS, side=128, patients="apart", name="covidx")


def test_xrays_are_never_enlarged(xrays: Path) -> None:
    with pytest.raises(InputError, match=r"stored at 128 pixels, .* --size 512 .*--data.image-size 120"):
        configured(xrays)
    assert configured(xrays, image_size=120)[0].data.resize == 128
    with pytest.raises(InputError, match=r"smaller than 129: .*--size 129"):
        configured(xrays, image_size=121)
    assert configured(xrays, image_size=128, resize=128)[0].data.image_size == 128
    with pytest.raises(InputError, match="--size 129"):
        configured(xrays, image_size=128, resize=129)


def test_xrays_that_are_seen_whole_are_not_resized_first(tmp_path: Path) -> None:
    folder = tiny_set(
        tmp_path / "findings", LABELS, CLASSES, splits=SPLITS, side=128, patients="apart", name="padchest_cl"
    )
    assert configured(folder, image_size=128)[0].data.image_size == 128
    with pytest.raises(InputError, match=r"--size 224 .* --data.image-size 128"):
        configured(folder)


def test_photographs_are_enlarged_as_the_rule_says(xrays: Path, make: Make) -> None:
    assert make("pets", side=100)[0].data.resize == 512
    index = Index.load(xrays, "train")
    assert index.xray_side == 128
    other_height = np.array([*index.height[1:], 127])
    for change in ({"channels": 3}, {"patients": "none"}, {"height": other_height}, {"width": index.width + 1}):
        assert replace(index, **change).xray_side is None, change


def test_runs_on_frozen_features_have_folders_of_their_own(make: Make) -> None:
    names = [make("pets", mode=mode)[0].name for mode in ("finetune", "probe", "knn")]
    assert [name.rpartition("seed-3")[2] for name in names] == ["", "-probe", "-knn"]
    assert make("pets", mode="probe")[0].mode == "probe"


@pytest.mark.parametrize(("copies", "is_told"), [(1, True), (2, False)])
def test_few_test_images_are_told_before_training(
    copies: int, is_told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(finetune, "start_run", lambda config, launch, fields, warnings: told.extend(warnings))
    target = tiny_set(tmp_path / "folder", LABELS * copies, CLASSES, name="mine", splits=SPLITS)
    fine_tune(Transfer(SCRATCH, str(target), "full", 0, options_with(**{"model.name": "r14x0.5"} | ON_CPU)))
    assert any("the test split has 15 images" in line for line in told) == is_told
