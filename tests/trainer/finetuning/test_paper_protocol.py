"""--match-authors sets what the authors' program does, and nothing else."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from protocol_changes import EVERYWHERE, FINE_TUNING, ON_XRAYS, configured, target_of

from trainer.config import Config, RuntimeConfig, differences
from trainer.finetuning.paper_protocol import (
    SETTINGS,
    match_authors,
    setting,
)
from trainer.pretrain import parse
from trainer.recipes import RECIPES
from trainer.training.job import make_job
from trainer.training.model import prepare_model

ON_NATURAL = {"model.mean": [0.485, 0.456, 0.406], "model.std": [0.229, 0.224, 0.225]}


RANDAUGMENT = {"data.randaugment_space": "ildoonet", "data.randaugment_on": "image"}


FP16 = {"precision": "fp16"}


def warm_up(epochs: int) -> dict[str, Any]:
    return {"schedule.warmup_epochs": epochs, "schedule.warmup_steps": 0}


# By the beginning of a recipe's name, what the switch changes besides.
RECIPE_CHANGES: dict[str, dict[str, Any]] = {
    "embedded": {},
    "phantom": {},
    "imagenet1k_r50x1": FP16 | ON_NATURAL | RANDAUGMENT | warm_up(15) | {"schedule.epochs": 120},
    "imagenet1k_r50x1_120": FP16 | ON_NATURAL | RANDAUGMENT,
    "imagenet1k_r152x4": FP16 | ON_NATURAL | RANDAUGMENT | warm_up(15),
    "imagenet21k_": FP16 | ON_NATURAL | warm_up(2),
    "chexpert_": FP16 | ON_XRAYS,
    "mimic_": FP16 | ON_XRAYS,
    "nih_": FP16 | ON_XRAYS,
    "padchest_": FP16 | ON_XRAYS,
}


def changes(before: Config, after: Config) -> dict[str, Any]:
    """The settings that differ, by name, and what they are afterwards."""
    lines = differences(before.to_dict(), after.to_dict())
    return {name: setting(after.to_dict(), name) for name in (line.partition(":")[0] for line in lines)}


@pytest.mark.parametrize("name", RECIPES)
def test_what_the_switch_changes_of_a_recipe(name: str) -> None:
    starts = [start for start in RECIPE_CHANGES if name.startswith(start)]
    assert starts, f"add what --match-authors changes of {name} to RECIPE_CHANGES: {{}} if nothing but EVERYWHERE"
    expected = RECIPE_CHANGES[max(starts, key=len)]
    recipe = RECIPES[name]()
    matched = match_authors(recipe)
    assert changes(recipe, matched) == EVERYWHERE | expected
    assert changes(recipe, matched).keys() <= SETTINGS.keys()
    assert match_authors(matched) == matched
    assert matched.runtime == recipe.runtime


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, {"data.train_on": "train+val"}) for name in ("cifar10", "cifar100", "pets", "flowers102")),
        *((name, {"data.train_on": "train+val"}) for name in ("covidx", "tuberculosis")),
        ("mine", {}),
        (
            "padchest_cl",
            ON_XRAYS | {"data.train_on": "train+val", "model.mean": [0.5] * 3, "model.std": [0.5] * 3},
        ),
    ],
)
def test_what_the_switch_changes_of_a_fine_tuning(name: str, expected: dict[str, Any], tmp_path: Path) -> None:
    folder = target_of(tmp_path / "set", name)
    default, _ = configured(folder, train_on="train", image_size=32)
    matched, _ = configured(folder, match_authors=True, image_size=32)
    found = changes(default, matched)
    assert found.pop("name") == "scratch/set/full-shot-seed-0-authors"
    if name != "padchest_cl":
        expected = expected | {"data.train_view": "shorter_side_random_crop"}
    if default.precision == "fp32":  # of fine-tunings on a CPU
        found["precision"] = "fp32"
    assert found == FINE_TUNING | expected
    assert found.keys() <= SETTINGS.keys()


def test_without_a_manifest_the_folder_names_the_target() -> None:
    recipe = RECIPES["embedded"]()
    config = replace(recipe, eval_every=None, schedule=replace(recipe.schedule, kind="hyperrule"))
    named = replace(config, data=replace(config.data, sets=("/data/padchest_cl",)))
    assert match_authors(named).model.mean == (0.5, 0.5, 0.5)
    assert match_authors(named, "mine").model.mean is None
    assert match_authors(config).model.mean is None
    assert match_authors(named).data.train_on == "train"  # which images there are is not for the switch to say


def test_without_the_switch_the_protocol_is_the_recipe() -> None:
    command = parse(["imagenet1k_r50x1", "--no-match-authors", "--data.border", "reflect"])
    assert command.result_fields == {
        "kind": "pretrain",
        "protocol": "default",
        "departures": {"data.border": {"used": "reflect", "protocol": "black"}},
    }
    assert parse(["embedded"]).config == RECIPES["embedded"]()


@pytest.mark.parametrize("by_authors", [False, True])
def test_training_does_what_the_settings_say(by_authors: bool, tmp_path: Path) -> None:
    recipe = RECIPES["embedded"]()
    data = replace(recipe.data, sets=(str(target_of(tmp_path / "set", "mine")),))
    config = replace(recipe, data=data, runtime=RuntimeConfig(device="cpu", loader="torch"))
    job = make_job(match_authors(config) if by_authors else config, tmp_path / "run")
    prepared: list[Any] = []
    engine: Any = SimpleNamespace(rank=0, world_size=1, prepare=lambda *given: prepared.extend(given))
    prepare_model(job, engine)
    model, optimizer, _ = prepared
    names = {parameter: name for name, parameter in model.named_parameters()}
    (free,) = (group for group in optimizer.param_groups if not group["agc_clipping"])
    assert {group["nesterov"] for group in optimizer.param_groups} == {by_authors}
    assert [names[p] for p in free["params"]] == ["head.weight"] + ["head.bias"] * (not by_authors)
    assert bool(model.head.weight.any()) == by_authors
    stem = model.stem["conv"].weight
    assert (stem.abs().max().item() <= stem[0].numel() ** -0.5) == by_authors
