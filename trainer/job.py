"""A job: a configuration together with the data it names, ready to run on any number of ranks."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from data_pipelines import library
from data_pipelines.augment import Augmentation
from data_pipelines.batch import Batch
from data_pipelines.errors import InputError
from data_pipelines.index import Index, Split, concat, splits_of
from data_pipelines.loaders import Loader, pick_loader
from data_pipelines.order import Order, Request
from data_pipelines.shards import read_manifest
from trainer.config import Config, DataConfig
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

    def training_batches(self, engine: Engine, first_step: int) -> tuple[Iterator[Batch], int]:
        """This rank's endless micro-batches from `first_step` on, and how many of them make a step."""
        place = (engine.rank, engine.world_size, self.micro_batch_size(engine))
        requests = self.order.micro_batches(first_step, *place)
        return self.load(engine, self.train, requests, self.augmentation), self.order.num_micro_batches(*place)

    def micro_batch_size(self, engine: Engine) -> int:
        """Images of the largest forward pass of this rank."""
        share = len(self.order.step(0, engine.rank, engine.world_size).samples)
        return min(share, self.config.runtime.micro_batch_size or share)

    def load(
        self, engine: Engine, index: Index, requests: Iterable[Request], augmentation: Augmentation
    ) -> Iterator[Batch]:
        """Batches for these requests on the engine's device."""
        return self.loader(index, requests, augmentation, engine.device, engine.threads)


def make_job(config: Config, run_dir: Path) -> Job:
    """Open the data of a configuration. Raises InputError where they do not fit it."""
    train = open_split(config.data, "train", config.seed)
    if train is None:
        raise InputError(f"{', '.join(config.data.sets)} has no train split")
    val, test = (open_split(config.data, split, config.seed) for split in ("val", "test"))
    loader_name, loader = pick_loader(config.runtime.loader)
    total_steps = config.schedule.steps or ceil((config.schedule.epochs or 0) * len(train) / config.global_batch_size)
    data = config.data
    return Job(
        config=config,
        run_dir=run_dir,
        train=train,
        val=val,
        test=test,
        total_steps=total_steps,
        schedule=make_schedule(config, total_steps, len(train)),
        order=Order(len(train), config.global_batch_size, config.seed, unit=2 if data.mixup_alpha else 1),
        augmentation=Augmentation(
            data.train_view, data.image_size, data.resize, config.seed, data.flip and train.flip, data.mixup_alpha
        ),
        evaluation=Augmentation(data.eval_view, data.image_size, data.resize, flip=False),
        loader_name=loader_name,
        loader=loader,
        about={
            "model": config.model.name,
            "task": train.task,
            "classes": list(train.classes),
            "image_size": data.image_size,
            "data_fingerprint": train.fingerprint,
        },
    )


def open_split(data: DataConfig, split: Split, seed: int) -> Index | None:
    """One split of the joined sets, restricted to the chosen classes and, for train, to the shots; None if no set has
    it. Raises InputError if only some have it: a metric over part of the sets would pass for one over all."""
    folders = [library.find(name) for name in data.sets]
    having = [folder for folder in folders if split in splits_of(read_manifest(folder))]
    if not having:
        return None
    if len(having) < len(folders):
        lacking = ", ".join(str(folder) for folder in folders if folder not in having)
        raise InputError(f"{lacking} has no {split} split, the other sets have one; prepare it again with one")
    index = concat([Index.load(folder, split) for folder in folders])
    if data.classes:
        index = index.take_classes(data.classes)
    if split == "train" and data.shots is not None:
        index = index.few_shot(data.shots, seed, data.shots_at_most)
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


def warmup_reaches_decay(config: Config, total_steps: int) -> bool:
    """Whether the learning rate would be decayed before it has reached its peak."""
    schedule = config.schedule
    return schedule.kind == "step" and schedule.warmup_steps > decay_steps(total_steps)[0]
