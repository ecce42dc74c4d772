"""A job: a configuration with the data it names, for any number of ranks."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from data_pipelines.common.advice import flag
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json, write_atomically
from data_pipelines.common.manifest import read_manifest
from data_pipelines.common.message_parts import some_of
from data_pipelines.common.splits import Split
from data_pipelines.datasets.xray_views import different_views
from data_pipelines.loading.batch import Batch
from data_pipelines.loading.loader import Loader, pick_loader, read_ahead
from data_pipelines.loading.sampler import BatchRequest, BatchSampler
from data_pipelines.loading.unreadable import Replacement, blank
from data_pipelines.loading.views import PAIR, Augmentation
from data_pipelines.shards.concat import near_misses
from data_pipelines.shards.heads import described
from data_pipelines.shards.image_cap import images_of_sets
from data_pipelines.shards.index import Index
from trainer.config import Config, ModelConfig
from trainer.engine import Engine
from trainer.models.weights import describe_weights
from trainer.normalisation import BIT_MEAN, BIT_STD, require_mean, require_std
from trainer.optim.lr_schedules import late_warmup, make_schedule, num_steps, num_warmup_steps, shorter_warmup
from trainer.run_files import CONFIG, SUBSET
from trainer.splits import folders_of, open_split, set_digests, trained_on

_MOST_STEPS_UNSAVED, _PARTS_OF_RUN = 1000, 10
# A fine-tuning is short, and its checkpoints are small. Of a pre-training the few that are kept should reach back
# further, to before a loss began to rise.
_MOST_UNSAVED_S, _MOST_UNSAVED_FINETUNING_S = 1800.0, 300.0


@dataclass(frozen=True, eq=False)
class Job:
    """Everything `loop.train` needs. `config` includes mean and std of the inputs, `metadata` goes into every
    checkpoint, `loader_name` is the loader in use."""

    config: Config
    run_dir: Path
    train: Index
    val: Index | None
    test: Index | None
    total_steps: int
    schedule: Callable[[int], float]
    order: BatchSampler
    augmentation: Augmentation
    evaluation: Augmentation
    loader_name: str
    loader: Loader
    metadata: dict[str, Any]
    warnings: tuple[str, ...]

    def is_due(self, what: Literal["log", "eval", "save"], done: int) -> bool:
        """Whether this is due after `done` steps: every so many steps, and at the end."""
        every = {"log": self.config.runtime.log_every, "eval": self.config.eval_every, "save": self.save_every}[what]
        return done == self.total_steps or (every is not None and done % every == 0)

    @property
    def save_every(self) -> int:
        """Steps between two checkpoints."""
        tenth = -(-self.total_steps // _PARTS_OF_RUN)
        return self.config.runtime.save_every or max(1, min(_MOST_STEPS_UNSAVED, tenth))

    @property
    def max_unsaved_s(self) -> float | None:
        """Seconds after which the next checkpoint does not wait for its step; None where steps alone decide."""
        config = self.config
        if config.runtime.save_every is not None:
            return None
        is_finetuning = config.model.pretrained is not None or config.schedule.kind == "hyperrule"
        return _MOST_UNSAVED_FINETUNING_S if is_finetuning else _MOST_UNSAVED_S

    def training_batches(self, engine: Engine, first_step: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of each step from `first_step` on, without end."""
        world_size, limit = engine.world_size, self._micro_batch_size(engine)
        requests = self.order.micro_batches(first_step, engine.rank, world_size, limit)
        batches = self.load(engine, self.train, requests, self.augmentation, self.order.replacement)
        count = self.num_micro_batches(engine)
        return ([next(batches) for _ in range(count)] for _ in repeat(None))

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which as many images are seen as there are to train on."""
        return len(self.train) / self.config.global_batch_size

    def num_micro_batches(self, engine: Engine) -> int:
        """Forward and backward passes per step: the same on every rank."""
        return self.order.num_micro_batches(engine.world_size, self._micro_batch_size(engine))

    def _micro_batch_size(self, engine: Engine) -> int:
        """The same on every rank, even where their shares of a step differ; the last one of a share may be smaller."""
        limit = self.config.runtime.micro_batch_size
        return limit if isinstance(limit, int) else self.order.largest_share(engine.world_size)

    def largest_pass(self, engine: Engine) -> int:
        """Images in this rank's largest forward pass."""
        share = len(self.order.request(0, engine.rank, engine.world_size).samples)
        return min(share, self._micro_batch_size(engine))

    @property
    def held_out(self) -> dict[Split, Index]:
        """The val and test splits, where they exist and are not trained on."""
        splits: dict[Split, Index | None] = {"val": self.val, "test": self.test}
        return {split: index for split, index in splits.items() if index is not None}

    def blank_images(self, count: int) -> Tensor:
        """Black images in the form that loaders yield, uint8 [count, C, S, S] on the CPU."""
        size = self.config.data.image_size
        return torch.zeros(count, size, size, self.train.channels, dtype=torch.uint8).permute(0, 3, 1, 2)

    def load(
        self,
        engine: Engine,
        index: Index,
        requests: Iterable[BatchRequest],
        augmentation: Augmentation,
        replacement: Replacement = blank,
    ) -> Iterator[Batch]:
        """Batches for these requests on the engine's device; `Batch.unreadable` lists samples that could not be
        read."""
        early = read_ahead(index, requests, self.config.runtime.read_ahead)
        return self.loader(index, early, augmentation, engine.device, engine.threads, replacement=replacement)


@dataclass(frozen=True)
class RunOutput:
    """Output of training: seconds of training over all starts, predictions, and further entries of the result."""

    seconds: float
    predicted: Mapping[Split, tuple[Index, Tensor]]
    details: dict[str, Any]


def make_job(config: Config, run_dir: Path) -> Job:
    """Open the data that a configuration names. Raises InputError where they do not match it."""
    config = replace(config, model=normalised(config.model, run_dir))
    data = config.data
    folders = folders_of(data, config.runtime)
    train = open_split(data, folders, "train", config.seed)
    if train is None:
        raise InputError(f"{', '.join(data.sets)} has no train split")
    val, test = (open_split(data, folders, split, config.seed) for split in ("val", "test"))
    on_gpu = config.runtime.device != "cpu" and torch.cuda.is_available()
    augmentation = make_augmentation(config, train.flip)
    loader_name, loader = pick_loader(config.runtime.loader, on_gpu, data.scaled_decode, augmentation)
    order = BatchSampler(
        num_samples=len(train),
        global_batch_size=config.global_batch_size,
        seed=config.seed,
        group_size=2 if data.mixup_alpha else 1,
        shuffle=data.shuffle,
        weights=train.weights(data.balance),
    )
    total_steps = num_steps(config, order.epoch_size) if config.mode == "finetune" else 0
    late = _accepted_late_warmup(config, total_steps, order.epoch_size)
    return Job(
        config=config,
        run_dir=run_dir,
        train=train,
        val=val,
        test=test,
        total_steps=total_steps,
        schedule=make_schedule(config, total_steps, len(train), order.epoch_size),
        order=order,
        augmentation=augmentation,
        evaluation=Augmentation(data.eval_view, data.image_size, data.resize, flip=False),
        loader_name=loader_name,
        loader=loader,
        metadata=_metadata(config, folders, train),
        warnings=(*late, *_warnings(config, folders, train)),
    )


def _metadata(config: Config, folders: Sequence[Path], train: Index) -> dict[str, Any]:
    """Metadata of run and data for every checkpoint."""
    data = config.data
    return {
        "model": config.model.name,
        "task": train.task,
        "metric": train.metric,
        "classes": list(train.classes),
        "sets": sorted(set(train.origins)),
        "set_digests": set_digests(folders),
        "trained_on": trained_on(data, folders),
        "image_size": data.image_size,
        "resize": data.resize,
        "eval_view": data.eval_view,
        "channels": train.channels,
        "xray_size": train.xray_side,
        "bits": train.depth.bits,
        "bits_given": train.depth.is_given,
        "xray_cut": train.xray_cut,
        "shorter_side": train.shorter_side,
        "upright": train.upright,
        "scaled_decode": data.scaled_decode,
        "precision": config.precision,
        "mean": config.model.mean,
        "std": config.model.std,
        "data_fingerprint": train.fingerprint,
        **({"heads": described(train.heads)} if train.heads else {}),
        **({"images_of_sets": images_of_sets(train)} if data.images is not None else {}),
    }


def settings_of(config: Config, data_fingerprint: str) -> dict[str, Any]:
    """What determines the result of a run: its configuration, its training images and its initial weights."""
    settings = config.to_dict() | {"data_fingerprint": data_fingerprint}
    if config.model.pretrained is not None:
        settings["model"]["pretrained_weights"] = describe_weights(config.model.pretrained).digest
    return settings


def write_subset(run_dir: Path, index: Index) -> None:
    """Write `subset.csv`: key and class of every training image of a few-shot run."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            rows = csv.writer(file)
            rows.writerow(("key", "class"))
            names = [index.classes[label] for label in index.labels]
            rows.writerows(zip(index.keys(np.arange(len(index))), names, strict=True))

    write_atomically(run_dir / SUBSET, write)


def make_augmentation(config: Config, may_flip: bool) -> Augmentation:
    """How training images are cropped and augmented; `may_flip`: a mirrored image has the same label."""
    data = config.data
    return Augmentation(
        policy=data.train_view,
        size=data.image_size,
        resize=data.resize,
        seed=config.seed,
        flip=data.flip and may_flip,
        mixup_alpha=data.mixup_alpha,
        mixup_group=config.global_batch_size if data.mixup_weight == "step" else PAIR,
        randaugment_ops=data.randaugment_ops,
        randaugment_magnitude=data.randaugment_magnitude,
        randaugment_space=data.randaugment_space,
        randaugment_on=data.randaugment_on,
        translation=data.translation,
        border=data.border,
    )


def normalised(model: ModelConfig, run_dir: Path) -> ModelConfig:
    """The model configuration with mean and std of the inputs filled in: from the configuration, else from the run in
    the folder, else from the pre-trained weights, else 0.5. Raises InputError for weights that cannot be read."""
    if model.mean is not None and model.std is not None:
        return model
    begun = read_json(run_dir / CONFIG)
    if isinstance(begun, dict) and isinstance(begun.get("model"), dict):
        # Runs of earlier versions, which do not say it, took 0.5 for all weights.
        mean, std = (tuple(begun["model"].get(name) or BIT_MEAN) for name in ("mean", "std"))
        require_mean(mean, f"{run_dir / CONFIG}: model")
        require_std(std, f"{run_dir / CONFIG}: model")
    else:
        weights = describe_weights(model.pretrained) if model.pretrained is not None else None
        if weights:
            weights.require_normalisation(
                f"fix it there, or give both values, which then count, with {flag('--model.mean')} and "
                f"{flag('--model.std')}"
            )
        mean, std = (weights and weights.mean) or BIT_MEAN, (weights and weights.std) or BIT_STD
    return replace(model, mean=model.mean or mean, std=model.std or std)


def _accepted_late_warmup(config: Config, total_steps: int, images_per_epoch: int) -> tuple[str, ...]:
    """A warning about a schedule that does not decay as it should, where the configuration allows it. Raises InputError
    where it does not."""
    schedule = config.schedule
    late = late_warmup(schedule, total_steps, num_warmup_steps(config, images_per_epoch)) if total_steps else None
    if late is None:
        return ()
    if not schedule.allow_no_decay:
        raise InputError(
            f"{late}; shorten it ({shorter_warmup(schedule, total_steps)}), train longer, or keep it all the same with "
            "--schedule.allow-no-decay"
        )
    return (late,)


def _warnings(config: Config, folders: Sequence[Path], train: Index) -> tuple[str, ...]:
    """Warnings about settings that are allowed but hardly intended."""
    warnings = []
    shots = config.data.shots
    if train.task == "single_label" and (short := train.below(shots or 1)):
        warnings.append(f"classes with fewer than {shots or 1} training images: {some_of(short)}")
    if train.task == "multi_label" and not ((train.labels == 1).any(axis=0) & (train.labels == 0).any(axis=0)).any():
        warnings.append("no finding has both positives and negatives in train, so that there is nothing to tell apart")
    manifests = [read_manifest(folder, check_shards=False) for folder in folders]
    if confound := different_views([(found["name"], found.get("views", ())) for found in manifests]):
        warnings.append(confound)
    joined = [Index.load(folder, "train", check_shards=False) for folder in folders] if len(folders) > 1 else []
    merged = joined and not config.data.classes and not train.heads
    if merged and (alike := near_misses(joined)):
        warnings.append(f"not joined, although they look alike: {', '.join(alike)}")
    sides = dict(zip(folders, (index.xray_side for index in joined), strict=False))
    if None not in sides.values() and len(set(sides.values())) > 1:
        listed = ", ".join(f"{folder.name}: {side}" for folder, side in sides.items())
        warnings.append(
            f"the joined X-rays have different sizes in pixels ({listed}), so that predictions of new ones do not know "
            "theirs; prepare the sets again with equal ones, or give bitscale predict --xray-size"
        )
    return tuple(warnings)
