"""The recipes are the paper's (arXiv:2106.00116, sections 3.1.1 and 3.1.2), of X-rays as its authors ran them."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_pipelines.datasets.catalog import EMBEDDED, find
from data_pipelines.datasets.registry import DATASETS
from trainer.config import ScheduleConfig
from trainer.models import bit
from trainer.models.bit import build_model
from trainer.optim.lr_schedules import late_warmup, make_schedule, num_steps, num_warmup_steps
from trainer.recipes import RECIPES, overview

UNIONS = {
    "chexpert": ("chexpert",),
    "chexpert_mimic": ("chexpert", "mimic_cxr"),
    "chexpert_mimic_nih": ("chexpert", "mimic_cxr", "nih_cxr14"),
    "chexpert_mimic_nih_padchest": ("chexpert", "mimic_cxr", "nih_cxr14", "padchest"),
}
ALONE = {"mimic": ("mimic_cxr",), "nih": ("nih_cxr14",), "padchest": ("padchest",)}
XRAYS = UNIONS | ALONE
SETS = {"imagenet1k": ("imagenet1k",), "imagenet21k": ("imagenet21k",), **XRAYS}
MODELS = ("r50x1", "r152x4")
PAPERS = [f"{name}_{model}" for name in SETS for model in MODELS]


def test_every_name_is_there() -> None:
    assert {"embedded", "phantom", *PAPERS} <= RECIPES.keys()


@pytest.mark.parametrize("name", PAPERS)
def test_paper_values(name: str) -> None:
    config = RECIPES[name]()
    source, _, model = name.rpartition("_")
    assert config.name == name
    assert config.model.name == model
    assert config.model.pretrained is None
    assert config.data.sets == SETS[source]
    assert config.global_batch_size == (1024 if source in XRAYS else 4096)
    assert config.optim.base_lr == (0.03 if source == "imagenet1k" else 0.01)
    assert config.optim.rescale_lr
    assert config.optim.momentum == 0.9
    assert config.optim.weight_decay == 1e-4
    assert config.optim.agc_clipping == 0.01
    assert (config.optim.nesterov, config.optim.agc_head) == (False, "name")
    assert config.schedule.kind == ("cosine" if source == "imagenet1k" else "step")
    assert (config.schedule.epochs, config.schedule.steps) == (90, None)
    warmup = (15, 0) if source in XRAYS else (None, 5000)
    assert (config.schedule.warmup_epochs, config.schedule.warmup_steps) == warmup
    views = ("xray_affine", "squash") if source in XRAYS else ("random_resized_crop", "center_crop")
    assert (config.data.image_size, config.data.train_view, config.data.eval_view) == (224, *views)
    assert config.data.flip
    assert (config.data.randaugment_ops > 0) == (source == "imagenet1k")
    assert (config.data.mixup_alpha, config.data.shots, config.data.classes) == (0, None, ())
    assert (config.data.join, config.data.shuffle, config.data.balance) == ("intersection", "full", "none")


@pytest.mark.parametrize("name", RECIPES)
def test_randaugment_is_that_of_imagenet_1k_alone(name: str) -> None:
    data = RECIPES[name]().data
    if name.startswith("imagenet1k_"):
        assert (data.randaugment_ops, data.randaugment_magnitude) == (2, 9)
    else:
        assert data.randaugment_ops == 0


# The paper's GPUs: 128 for r50x1 and 256 for r152x4 on natural images, 64 for both on X-rays.
@pytest.mark.parametrize(("model", "gpus"), [("r50x1", 128), ("r152x4", 256)])
def test_one_forward_pass_on_as_many_gpus_as_the_paper(model: str, gpus: int) -> None:
    for source in SETS:
        config = RECIPES[f"{source}_{model}"]()
        share = config.global_batch_size // (64 if source in XRAYS else gpus)
        assert config.runtime.micro_batch_size == share


# Images that the authors trained on, at least and at most: NIH's official list, and the largest union of all views.
@pytest.mark.parametrize("images", [86_524, 860_000])
@pytest.mark.parametrize("source", XRAYS)
def test_xray_schedules_warm_up_15_epochs_decay_after_30_60_80(source: str, images: int) -> None:
    config = RECIPES[f"{source}_r50x1"]()
    total_steps = num_steps(config, images)
    rate = make_schedule(config, total_steps, images, images)
    epochs = (7.5, 15.1, 29.9, 30.1, 59.9, 60.1, 79.9, 80.1, 89.9)
    rates = [rate(round(epoch * images / 1024)) for epoch in epochs]
    expected = [0.02, 0.04, 0.04, 0.004, 0.004, 0.0004, 0.0004, 0.00004, 0.00004]
    assert rates == pytest.approx(expected, rel=2e-3)
    assert late_warmup(config.schedule, total_steps, num_warmup_steps(config, images)) is None


def test_imagenet_1k_as_the_authors_configured_r50x1() -> None:
    config, text = RECIPES["imagenet1k_r50x1_120"](), RECIPES["imagenet1k_r50x1"]()
    assert config.schedule == ScheduleConfig("cosine", epochs=120, warmup_epochs=15, warmup_steps=0)
    assert num_warmup_steps(config, 1_281_167) == 4692
    assert replace(config, name=text.name, schedule=text.schedule) == text


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_constructs_and_is_plain(name: str) -> None:
    first, second = RECIPES[name](), RECIPES[name]()
    assert first == second
    assert first.to_dict()["data"]["sets"] == list(first.data.sets)
    assert first.name == name, "give its Config the recipe's name, which the run folder gets"
    assert DATASETS.keys() >= set(first.data.sets), "it names sets that no reader makes"


# Training images of a set, at the least.
IMAGES = {
    "fashion_mnist": 9_000,
    "phantom": 1_000,
    "imagenet1k": 1_200_000,
    "imagenet21k": 11_000_000,
    "chexpert": 200_000,
    "mimic_cxr": 200_000,
    "nih_cxr14": 86_524,
    "padchest": 90_000,
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_warm_up_of_every_recipe_ends_in_time(name: str) -> None:
    config = RECIPES[name]()
    assert IMAGES.keys() >= set(config.data.sets), "add how many training images its sets have to IMAGES"
    images = sum(IMAGES[name] for name in config.data.sets)
    late = late_warmup(config.schedule, num_steps(config, images), num_warmup_steps(config, images))
    assert late is None, "shorten warmup_steps or warmup_epochs of its ScheduleConfig"


def test_every_recipe_has_a_row_in_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    table = page.partition("| recipe |")[2].partition("\n\n")[0]
    first_cells = " ".join(line.split("|")[1] for line in table.splitlines()[2:])
    written = {name.replace("…", model) for name in re.findall(r"`(.+?)`", first_cells) for model in MODELS}
    assert written == {*RECIPES, "own"}, "the table of docs/recipes.md has a row for each"


def test_the_demo_runs_on_what_ships() -> None:
    config = RECIPES["embedded"]()
    assert {find(name).parent for name in config.data.sets} == {EMBEDDED}
    assert sum(p.numel() for p in build_model(config.model.name, 10).parameters()) < 3e6


@pytest.mark.parametrize("name", bit.MODELS)
def test_short_help_says_how_many_parameters(name: str) -> None:
    lines = [line.split() for line in overview().splitlines() if line.split()[:1] == [name]]
    with torch.device("meta"):
        millions = sum(p.numel() for p in build_model(name, 1000).parameters()) / 1e6
    assert [float(line[1]) for line in lines] == [pytest.approx(millions, rel=0.03)], f"say {millions:.1f} M there"


def test_short_help_names_every_model_and_recipe() -> None:
    words = set(overview().split())
    either = {name: {name, name.replace("r50x1", "MODEL").replace("r152x4", "MODEL")} for name in RECIPES}
    assert set(bit.MODELS) <= words
    assert [name for name, forms in either.items() if not forms & words] == []
