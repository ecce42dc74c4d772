"""The recipes are the paper's (arXiv:2106.00116, sections 3.1.1 and 3.1.2)."""

import pytest

from data_pipelines.library import EMBEDDED, find
from trainer.models.bit import build_model
from trainer.recipes import RECIPES

UNIONS = {
    "chexpert": ("chexpert",),
    "chexpert_mimic": ("chexpert", "mimic_cxr"),
    "chexpert_mimic_nih": ("chexpert", "mimic_cxr", "nih_cxr14"),
    "chexpert_mimic_nih_padchest": ("chexpert", "mimic_cxr", "nih_cxr14", "padchest"),
}
SETS = {"imagenet1k": ("imagenet1k",), "imagenet21k": ("imagenet21k",), **UNIONS}
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
    assert config.global_batch_size == 4096
    assert config.optim.base_lr == (0.03 if source == "imagenet1k" else 0.01)
    assert config.optim.rescale_lr
    assert config.optim.momentum == 0.9
    assert config.optim.weight_decay == 1e-4
    assert config.optim.agc_clipping == 0.01
    assert (config.optim.nesterov, config.optim.agc_head) == (False, "name")
    assert config.schedule.kind == ("cosine" if source == "imagenet1k" else "step")
    assert (config.schedule.epochs, config.schedule.steps, config.schedule.warmup_steps) == (90, None, 5000)
    views = ("xray_affine", "squash") if source in UNIONS else ("random_resized_crop", "center_crop")
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


# The paper's GPUs for natural images: 128 for r50x1, 256 for r152x4.
@pytest.mark.parametrize(("model", "gpus"), [("r50x1", 128), ("r152x4", 256)])
def test_one_forward_pass_on_as_many_gpus_as_the_paper(model: str, gpus: int) -> None:
    for source in SETS:
        assert RECIPES[f"{source}_{model}"]().runtime.micro_batch_size == 4096 // gpus


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_constructs_and_is_plain(name: str) -> None:
    first, second = RECIPES[name](), RECIPES[name]()
    assert first == second
    assert first.to_dict()["data"]["sets"] == list(first.data.sets)


def test_the_demo_runs_on_what_ships() -> None:
    config = RECIPES["embedded"]()
    assert {find(name).parent for name in config.data.sets} == {EMBEDDED}
    assert sum(p.numel() for p in build_model(config.model.name, 10).parameters()) < 3e6
