"""The recipe `own`: settings for a set of one's own, chosen by what it holds and by the machine.

The speed of a CPU that stands here was estimated with r14x0.5 on one core of a shared x86 server, beside other work.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.common.cpus import num_usable_cpus
from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import rank_0_logger
from data_pipelines.shards.index import Index
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig, with_settings
from trainer.splits import folders_of, open_split, require_several_classes

_SIDES = (64, 96, 128, 160, 192, 224)  # pixels; the model halves five times, and little would be left of fewer
_LARGEST_SIDE_ON_CPU = 128
_IMAGES_PER_S = 280.0
"""r14x0.5 at 64 pixels on one core. It falls with the number of pixels."""
_CPU_SECONDS = 240.0
"""Training that a run on a CPU is to take: with evaluation and start about five minutes."""
_FEWEST_EPOCHS, _MOST_EPOCHS = 10, 60
_EPOCHS_WORTH_PIXELS = 40  # fewer epochs cost more accuracy than smaller pictures do
_MANY_IMAGES = 20_000  # fewer do not fill a large model
_LARGE_GPU_BYTES = 12e9
_UNEVEN = 5
"""Ratio of the largest class to the smallest from which on classes are shown equally often."""

PREVIEW = Config(
    name="own",
    global_batch_size=32,
    precision="fp32",
    eval_every=50,
    data=DataConfig(sets=("SET",), image_size=64, resize=72, train_view="resize_random_crop"),
    model=ModelConfig(name="r14x0.5"),
    optim=OptimConfig(base_lr=0.4),
    schedule=ScheduleConfig(kind="cosine", epochs=100, warmup_epochs=5, warmup_steps=0),
    runtime=RuntimeConfig(log_every=10),
)


@dataclass(frozen=True)
class _Machine:
    """gpu_bytes: memory of the GPU; None without one."""

    cores: int
    gpu_bytes: float | None

    def __str__(self) -> str:
        if self.gpu_bytes is not None:
            return f"a GPU with {self.gpu_bytes / 1e9:.0f} GB"
        return f"{self.cores} CPU core{'s' * (self.cores != 1)}"

    def epochs_in_time(self, images: int, side: int) -> float:
        """How many epochs of so many images the time of a CPU is enough for."""
        return _CPU_SECONDS * self.cores * _IMAGES_PER_S * (64 / side) ** 2 / images


def run_name(settings: Mapping[str, Any]) -> str:
    """The name of a run, after its sets."""
    return "_".join(["own", *(Path(name).name for name in settings.get("data.sets", ()))])


def choose(settings: Mapping[str, Any]) -> Config:
    """For prepared images of your own (--data.sets): size, model, length, batch and balance are chosen by what the set
    holds and what the machine has. Each choice is printed with its reason, and any flag beats it."""
    if not settings.get("data.sets"):
        raise InputError("own looks at your images; name the prepared set with --data.sets")
    train = _open(settings)
    machine = _machine(settings.get("runtime.device", "auto"), settings.get("runtime.threads"))
    chosen: dict[str, tuple[Any, str]] = {}
    for choose_some in (_image_size, _model, _schedule, _batch, _balance):
        known = {name: value for name, (value, _) in chosen.items()} | dict(settings)
        chosen |= choose_some(train, machine, known)
    for name, (value, reason) in chosen.items():
        if reason:
            given = settings.get(name, value)
            told = f"{value}: {reason}"
            if given != value:
                told = f"{f'{given:g}' if isinstance(given, float) else given} as given; own would take {told}"
            rank_0_logger.info(f"own: {name} {told}")
    values = {name: value for name, (value, _) in chosen.items()}
    return with_settings(PREVIEW, {"name": run_name(settings), "data.sets": settings["data.sets"], **values})


def _open(settings: Mapping[str, Any]) -> Index:
    within = {name.partition(".")[2]: value for name, value in settings.items() if name.startswith("data.")}
    # Sizes that are given are for the model; they must not be checked against those that are yet to be chosen.
    data = DataConfig(**{name: value for name, value in within.items() if name not in ("image_size", "resize")})
    require_several_classes(data)
    train = open_split(data, folders_of(data, RuntimeConfig()), "train", settings.get("seed", 0))
    if train is None or not len(train):
        raise InputError(f"{', '.join(data.sets)} has no images to train on; prepare it with a train split")
    return train


def _machine(device: str, threads: int | None) -> _Machine:
    import torch  # here because it takes a second or two, and the help of a recipe does not need it

    cores = threads or num_usable_cpus()
    if device == "cpu" or not torch.cuda.is_available():
        return _Machine(cores, None)
    return _Machine(cores, float(torch.cuda.get_device_properties(0).total_memory))


def _image_size(train: Index, machine: _Machine, known: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    short = int(np.median(np.minimum(train.height, train.width)))
    fitting = [side for side in _SIDES if side <= short] or [_SIDES[0]]
    side, why = fitting[-1], f"half of the {len(train):,} training images have a shorter side of at most {short} pixels"
    if short < _SIDES[0]:
        why = f"{why}; they are enlarged to {_SIDES[0]}, as the model halves five times"
    if machine.gpu_bytes is None:
        in_time = [
            side
            for side in fitting
            if side <= _LARGEST_SIDE_ON_CPU and machine.epochs_in_time(len(train), side) >= _EPOCHS_WORTH_PIXELS
        ]
        affordable = max(in_time, default=_SIDES[0])
        if affordable < side:
            side, why = affordable, f"{why}; more than {affordable} would take {machine} over five minutes"
    return {"data.image_size": (side, why)}


def _model(train: Index, machine: _Machine, known: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    if machine.gpu_bytes is None:
        return {"model.name": ("r14x0.5", f"the smallest, as it trains on {machine}"), "precision": ("fp32", "")}
    is_large = machine.gpu_bytes >= _LARGE_GPU_BYTES and len(train) >= _MANY_IMAGES
    why = f"for {len(train):,} images on {machine}"
    return {"model.name": ("r50x1" if is_large else "r26x1", why), "precision": ("bf16", "")}


def _schedule(train: Index, machine: _Machine, known: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    side, count = known["data.image_size"], len(train)
    if machine.gpu_bytes is not None:
        epochs = int(np.clip(3_000_000 / count, 30, _MOST_EPOCHS))
        return {
            "schedule.epochs": (epochs, f"{count:,} images; small sets are shown more often"),
            **_warmup(epochs, known),
        }
    in_time = machine.epochs_in_time(count, side)
    epochs = int(np.clip(in_time, _FEWEST_EPOCHS, _MOST_EPOCHS))
    minutes = max(1, round(_CPU_SECONDS * epochs / in_time / 60))
    why = f"about {minutes} min on idle cores for {count:,} images of {side} pixels with r14x0.5 on {machine}"
    return {"schedule.epochs": (epochs, why), **_warmup(epochs, known)}


def _warmup(epochs: int, known: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """A twentieth of the run, of the given length if one is given."""
    if steps := known.get("schedule.steps"):
        return {"schedule.warmup_epochs": (None, ""), "schedule.warmup_steps": (steps // 20, "")}
    return {"schedule.warmup_epochs": ((known.get("schedule.epochs") or epochs) / 20, "")}


def _batch(train: Index, machine: _Machine, known: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    most = 128 if machine.gpu_bytes is None else 256
    batch = int(2 ** np.floor(np.log2(np.clip(len(train) / 8, 16, most))))
    taken = known.get("global_batch_size", batch)
    epochs, steps = known.get("schedule.epochs"), known.get("schedule.steps")
    total = steps or int((epochs or 1) * len(train) / taken)
    why = f"at least eight steps in an epoch of {len(train):,} images; the learning rate is {0.4 * taken / 256:g}"
    return {"global_batch_size": (batch, why), "eval_every": (max(1, total // 20), "")}


def _balance(train: Index, machine: _Machine, known: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    if train.task != "single_label":
        return {}
    counts = np.bincount(np.asarray(train.labels), minlength=train.num_classes)
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    if counts[largest] < _UNEVEN * max(1, counts[smallest]):
        return {}
    why = (
        f"{train.classes[largest]!r} has {counts[largest]:,} training images and {train.classes[smallest]!r} "
        f"{counts[smallest]:,}; each class is shown equally often"
    )
    return {"data.balance": ("class", why)}
