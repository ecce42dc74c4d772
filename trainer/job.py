"""A job: a configuration together with the data it names, ready to run on any number of ranks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipelines import library
from data_pipelines.augment import Augmentation
from data_pipelines.batch import Batch
from data_pipelines.concat import concat, near_misses
from data_pipelines.errors import InputError
from data_pipelines.faults import Instead, blank
from data_pipelines.index import Index, Split, some_of, splits_of
from data_pipelines.loaders import Loader, pick_loader, read_ahead
from data_pipelines.order import Order, Request
from data_pipelines.shards import read_manifest
from data_pipelines.stage import stage
from trainer.config import Config, DataConfig, RuntimeConfig
from trainer.engines.base import Engine
from trainer.hyperrule import hyperrule_lr, schedule_for, stretched
from trainer.schedules import decay_steps, learning_rate, rescaled


@dataclass(frozen=True, eq=False)
class Job:
    """What `loop.train` needs to know. `about` goes into every checkpoint; `loader_name` is the loader in use."""

    config: Config
    run_dir: Path
    train: Index
    val: Index | None
    test: Index | None
    total_steps: int
    schedule: Callable[[int], float]
    order: Order
    augmentation: Augmentation
    evaluation: Augmentation
    loader_name: str
    loader: Loader
    about: dict[str, Any]
    warnings: tuple[str, ...]

    def training_batches(self, engine: Engine, first_step: int) -> tuple[Iterator[Batch], int]:
        """This rank's endless micro-batches from `first_step` on, and how many of them make a step."""
        place = (engine.rank, engine.world_size, self.micro_batch_size(engine))
        requests = self.order.micro_batches(first_step, *place)
        batches = self.load(engine, self.train, requests, self.augmentation, self.order.instead)
        return batches, self.order.num_micro_batches(*place)

    def micro_batch_size(self, engine: Engine) -> int:
        """Images of the largest forward pass of this rank."""
        share = len(self.order.step(0, engine.rank, engine.world_size).samples)
        limit = self.config.runtime.micro_batch_size
        return share if limit is None or limit == "auto" else min(share, limit)

    @property
    def held_out(self) -> dict[Split, Index]:
        """The splits that are not trained on, of those there are."""
        splits: dict[Split, Index | None] = {"val": self.val, "test": self.test}
        return {split: index for split, index in splits.items() if index is not None}

    def blank_images(self, count: int) -> Tensor:
        """Black images as a loader hands them out, uint8 [count, C, S, S] on the CPU."""
        size = self.config.data.image_size
        return torch.zeros(count, size, size, self.train.channels, dtype=torch.uint8).permute(0, 3, 1, 2)

    def load(
        self,
        engine: Engine,
        index: Index,
        requests: Iterable[Request],
        augmentation: Augmentation,
        instead: Instead = blank,
    ) -> Iterator[Batch]:
        """Batches for these requests on the engine's device; their `unseen` says what could not be read."""
        early = read_ahead(index, requests, self.config.runtime.read_ahead)
        return self.loader(index, early, augmentation, engine.device, engine.threads, instead=instead)


def make_job(config: Config, run_dir: Path) -> Job:
    """Open the data of a configuration. Raises InputError where they do not fit it."""
    data = config.data
    folders = folders_of(data, config.runtime)
    train = open_split(data, folders, "train", config.seed)
    if train is None:
        raise InputError(f"{', '.join(data.sets)} has no train split")
    val, test = (open_split(data, folders, split, config.seed) for split in ("val", "test"))
    on_gpu = config.runtime.device != "cpu" and torch.cuda.is_available()
    loader_name, loader = pick_loader(config.runtime.loader, on_gpu, data.scaled_decode)
    order = Order(
        num_samples=len(train),
        global_batch_size=config.global_batch_size,
        seed=config.seed,
        unit=2 if data.mixup_alpha else 1,
        shuffle=data.shuffle,
        weights=train.weights(data.balance),
    )
    epochs = config.schedule.epochs or 0
    total_steps = config.schedule.steps or ceil(epochs * order.epoch_size / config.global_batch_size)
    if config.mode != "finetune":
        total_steps = 0
    return Job(
        config=config,
        run_dir=run_dir,
        train=train,
        val=val,
        test=test,
        total_steps=total_steps,
        schedule=make_schedule(config, total_steps, len(train)),
        order=order,
        augmentation=Augmentation(
            policy=data.train_view,
            size=data.image_size,
            resize=data.resize,
            seed=config.seed,
            flip=data.flip and train.flip,
            mixup_alpha=data.mixup_alpha,
            randaugment_ops=data.randaugment_ops,
            randaugment_magnitude=data.randaugment_magnitude,
            translation=data.translation,
        ),
        evaluation=Augmentation(data.eval_view, data.image_size, data.resize, flip=False),
        loader_name=loader_name,
        loader=loader,
        about={
            "model": config.model.name,
            "task": train.task,
            "metric": train.metric,
            "classes": list(train.classes),
            "sets": sorted(set(train.origins)),
            "image_size": data.image_size,
            "resize": data.resize,
            "eval_view": data.eval_view,
            "channels": train.channels,
            "xray_size": train.xray_side,
            "shorter_side": train.shorter_side,
            "scaled_decode": data.scaled_decode,
            "precision": config.precision,
            "data_fingerprint": train.fingerprint,
        },
        warnings=_warnings(config, folders, train, total_steps),
    )


def folders_of(data: DataConfig, runtime: RuntimeConfig) -> list[Path]:
    """The folders of the sets that a configuration names, copied to the node's own storage if it says so."""
    folders = [library.find(name) for name in data.sets]
    return [stage(folder, Path(runtime.stage)) for folder in folders] if runtime.stage else folders


def open_split(data: DataConfig, folders: Sequence[Path], split: Split, seed: int) -> Index | None:
    """One split of the joined sets, restricted to the chosen classes and, for train, to the shots; None if no set has
    it. Raises InputError if only some have it: a metric over part of the sets would pass for one over all; and for
    classes without training images, unless shots_at_most."""
    strict = data.on_bad_shard == "stop"
    having = [folder for folder in folders if split in splits_of(read_manifest(folder, strict))]
    if not having:
        return None
    if len(having) < len(folders):
        lacking = ", ".join(str(folder) for folder in folders if folder not in having)
        raise InputError(f"{lacking} has no {split} split, the other sets have one; prepare it again with one")
    indexes = [Index.load(folder, split, strict) for folder in folders]
    if data.one_label:  # over all findings: those that are not chosen count as well
        index = concat(indexes, data.join).one_label()
        index = index.take_classes(data.classes) if data.classes else index
    else:
        index = concat(indexes, data.classes or data.join)
    if split != "train":
        return index
    if data.shots is not None:
        return index.few_shot(data.shots, seed, data.shots_at_most)
    if index.task == "single_label" and not data.shots_at_most and (missing := index.below(1)):
        raise InputError(
            f"some classes have no training image: {some_of(missing)}; choose the others with --classes, or train "
            "without images of these with --shots-at-most"
        )
    return index


def make_schedule(config: Config, total_steps: int, num_images: int) -> Callable[[int], float]:
    """Learning rate as a function of the step."""
    optim, schedule = config.optim, config.schedule
    peak = rescaled(optim.base_lr, config.global_batch_size) if optim.rescale_lr else optim.base_lr
    if schedule.kind == "hyperrule":
        boundaries = stretched(schedule_for(num_images), total_steps)
        return lambda step: hyperrule_lr(step, peak, boundaries)
    kind, warmup_steps = schedule.kind, min(schedule.warmup_steps, total_steps)
    return lambda step: learning_rate(step, peak, kind, total_steps, warmup_steps)


def _warnings(config: Config, folders: Sequence[Path], train: Index, total_steps: int) -> tuple[str, ...]:
    """What is allowed and hardly meant."""
    warnings = []
    schedule, shots = config.schedule, config.data.shots
    if train.task == "single_label" and (short := train.below(shots or 1)):
        warnings.append(f"classes with fewer than {shots or 1} training images: {some_of(short)}")
    if schedule.kind == "step" and schedule.warmup_steps > decay_steps(total_steps)[0]:
        warnings.append(f"{schedule.warmup_steps} warm-up steps reach into the first decay")
    if len(folders) > 1 and not config.data.classes:
        alike = near_misses([Index.load(folder, "train", check_shards=False) for folder in folders])
    else:
        alike = []
    if alike:
        warnings.append(f"not joined, although they look alike: {', '.join(alike)}")
    return tuple(warnings)
