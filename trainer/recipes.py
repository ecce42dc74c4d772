"""Named runs, each a function that returns its configuration. `pretrain.py --help` lists them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from trainer.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RuntimeConfig,
    ScheduleConfig,
    ScheduleKind,
)


def embedded() -> Config:
    """Demo: r14x0.5 on 9,000 embedded Fashion-MNIST images at 32 px, about two minutes on two CPU cores."""
    return Config(
        name="embedded",
        global_batch_size=128,
        precision="fp32",
        eval_every=200,
        data=DataConfig(sets=("fashion_mnist",), image_size=32, resize=36, train_view="resize_random_crop"),
        model=ModelConfig(name="r14x0.5"),
        optim=OptimConfig(base_lr=0.4),
        schedule=ScheduleConfig(kind="cosine", epochs=None, steps=1200, warmup_steps=100),
        runtime=RuntimeConfig(log_every=20, save_every=100),
    )


def phantom() -> Config:
    """Demo of the multi-label path: r14x0.5 on synthetic chest phantoms (prepare them first) at 64 px."""
    return Config(
        name="phantom",
        global_batch_size=64,
        precision="fp32",
        eval_every=100,
        data=DataConfig(sets=("phantom",), image_size=64, resize=64),
        model=ModelConfig(name="r14x0.5"),
        optim=OptimConfig(base_lr=0.1),
        schedule=ScheduleConfig(kind="cosine", epochs=None, steps=400, warmup_steps=40),
        runtime=RuntimeConfig(log_every=20, save_every=100),
    )


def imagenet1k(model: str) -> Config:
    """The paper's pre-training on ImageNet-1k: base lr 0.03, cosine, 90 epochs, batch 4096, RandAugment(2, 9)."""
    config = _paper("imagenet1k", model, ("imagenet1k",), base_lr=0.03, schedule="cosine")
    return replace(config, data=replace(config.data, randaugment_ops=2, randaugment_magnitude=9))


def imagenet21k(model: str) -> Config:
    """The paper's pre-training on ImageNet-21k: base lr 0.01, steps at epochs 30, 60, 80 of 90, batch 4096."""
    return _paper("imagenet21k", model, ("imagenet21k",), base_lr=0.01, schedule="step")


def chest_xray(name: str, sets: tuple[str, ...], model: str) -> Config:
    """The paper's pre-training on chest X-rays over the findings that the sets share: base lr 0.01, steps, batch 4096,
    whole images rotated, shifted, scaled and mirrored. CheXpert alone makes fewer steps than the paper's 5,000 of
    warm-up: that then covers the whole run, and a warning says so."""
    config = _paper(name, model, sets, base_lr=0.01, schedule="step")
    return replace(config, data=replace(config.data, train_view="xray_affine", eval_view="squash"))


# Images per GPU in the paper: r152x4 on 256 and r50x1 on 128 A100-40GB, global batch 4096.
_MICRO_BATCH_SIZE = {"r50x1": 32, "r152x4": 16}


def _paper(name: str, model: str, sets: tuple[str, ...], base_lr: float, schedule: ScheduleKind) -> Config:
    return Config(
        name=f"{name}_{model}",
        global_batch_size=4096,
        precision="bf16",
        eval_every=2000,
        data=DataConfig(sets=sets, image_size=224, resize=256),
        model=ModelConfig(name=model),
        optim=OptimConfig(base_lr=base_lr, momentum=0.9, weight_decay=1e-4, agc_clipping=0.01),
        schedule=ScheduleConfig(kind=schedule, epochs=90, warmup_steps=5000),
        runtime=RuntimeConfig(micro_batch_size=_MICRO_BATCH_SIZE[model]),
    )


_CHEST_XRAY_UNIONS = {
    "chexpert": ("chexpert",),
    "chexpert_mimic": ("chexpert", "mimic_cxr"),
    "chexpert_mimic_nih": ("chexpert", "mimic_cxr", "nih_cxr14"),
    "chexpert_mimic_nih_padchest": ("chexpert", "mimic_cxr", "nih_cxr14", "padchest"),
}

RECIPES: dict[str, Callable[[], Config]] = {"embedded": embedded, "phantom": phantom}
for _model in _MICRO_BATCH_SIZE:
    RECIPES[f"imagenet1k_{_model}"] = partial(imagenet1k, _model)
    RECIPES[f"imagenet21k_{_model}"] = partial(imagenet21k, _model)
    for _name, _sets in _CHEST_XRAY_UNIONS.items():
        RECIPES[f"{_name}_{_model}"] = partial(chest_xray, _name, _sets, _model)
