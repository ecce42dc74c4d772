"""The paper's pre-training (arXiv:2106.00116, sections 3.1.1 and 3.1.2), of X-rays as its authors ran it."""

from dataclasses import replace

from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig


def imagenet1k(model: str) -> Config:
    """The paper's pre-training on ImageNet-1k: base lr 0.03, cosine, 90 epochs, batch 4096, RandAugment(2, 9)."""
    config = _paper("imagenet1k", model, ("imagenet1k",), 0.03, ScheduleConfig("cosine", epochs=90, warmup_steps=5000))
    return replace(config, data=replace(config.data, randaugment_ops=2, randaugment_magnitude=9))


def imagenet1k_r50x1_120() -> Config:
    """ImageNet-1k with r50x1 as the authors' program is configured, where the text has 90 epochs and 5,000 steps of
    warm-up: 120 epochs, 15 of them warm-up."""
    config = imagenet1k("r50x1")
    schedule = replace(config.schedule, epochs=120, warmup_epochs=15, warmup_steps=0)
    return replace(config, name=f"{config.name}_120", schedule=schedule)


def imagenet21k(model: str) -> Config:
    """The paper's pre-training on ImageNet-21k: base lr 0.01, steps at epochs 30, 60, 80 of 90, batch 4096."""
    return _paper("imagenet21k", model, ("imagenet21k",), 0.01, ScheduleConfig("step", epochs=90, warmup_steps=5000))


def chest_xray(name: str, sets: tuple[str, ...], model: str) -> Config:
    """The paper's pre-training on chest X-rays over the findings that the sets share, as the authors ran it on 64 GPUs:
    batch 1024, base lr 0.01, warm-up of 15 epochs, steps at epochs 30, 60, 80 of 90; whole images rotated, shifted,
    scaled and mirrored. By the text (batch 4096, 5,000 steps of warm-up) CheXpert would make fewer steps than those."""
    schedule = ScheduleConfig("step", epochs=90, warmup_epochs=15, warmup_steps=0)
    config = _paper(name, model, sets, 0.01, schedule)
    return replace(
        config,
        global_batch_size=1024,
        data=replace(config.data, train_view="xray_affine", eval_view="squash"),
        runtime=replace(config.runtime, micro_batch_size=16),
    )


# Images per GPU in the paper: r152x4 on 256 and r50x1 on 128 A100-40GB, global batch 4096.
MICRO_BATCH_SIZE = {"r50x1": 32, "r152x4": 16}


def _paper(name: str, model: str, sets: tuple[str, ...], base_lr: float, schedule: ScheduleConfig) -> Config:
    return Config(
        name=f"{name}_{model}",
        global_batch_size=4096,
        precision="bf16",
        eval_every=2000,
        data=DataConfig(sets=sets, image_size=224, resize=256),
        model=ModelConfig(name=model),
        optim=OptimConfig(base_lr=base_lr, momentum=0.9, weight_decay=1e-4, agc_clipping=0.01),
        schedule=schedule,
        runtime=RuntimeConfig(micro_batch_size=MICRO_BATCH_SIZE[model]),
    )


# The four unions of the paper, and what its authors trained on alone, too: padchest with r152x4 only.
CHEST_XRAYS = {
    "chexpert": ("chexpert",),
    "chexpert_mimic": ("chexpert", "mimic_cxr"),
    "chexpert_mimic_nih": ("chexpert", "mimic_cxr", "nih_cxr14"),
    "chexpert_mimic_nih_padchest": ("chexpert", "mimic_cxr", "nih_cxr14", "padchest"),
    "mimic": ("mimic_cxr",),
    "nih": ("nih_cxr14",),
    "padchest": ("padchest",),
}
