"""Fine-tune: python trainer/transfer.py --pretrained RUN --target digits --shots 5 --seed 0

Everything follows BiT-HyperRule unless given. Several sources, shots and seeds run one after the other.
"""

import os
import sys

if not __package__:  # run as a script: this folder on sys.path would shadow other people's modules
    sys.path = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]

from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from data_pipelines.entry import entry_point
from data_pipelines.errors import InputError
from data_pipelines.index import Balance
from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, Precision, RuntimeConfig, ScheduleConfig
from trainer.engines import ENGINES
from trainer.experiment import Start, run, summary
from trainer.hyperrule import HyperRule, hyperrule
from trainer.job import folders_of, open_split

SCRATCH = "scratch"
FULL = "full"
# As the paper: these are small in some classes, and their full sets are sampled by class. By the names of the sets.
_OVERSAMPLED = {"flowers102", "covidx"}
# As the authors' configuration: these are trained and tested as in the pre-training on X-rays, at this size.
_XRAY_VIEW_SIZES = {"padchest_cl": 224}


@dataclass(frozen=True)
class Transfer:
    """Fine-tuning of pre-trained models on a target, all layers, with a new head."""

    pretrained: tuple[str, ...]
    """Run folders or checkpoints to start from; "scratch" starts from random weights instead."""
    target: str
    """The prepared data set to fine-tune on."""
    shots: tuple[str, ...] = (FULL,)
    """Training images per class, or "full"."""
    seed: tuple[int, ...] = (0,)
    """Decide the few-shot subset, the order, the augmentation, and the weights of "scratch"."""
    model: str | None = None
    """Model of "scratch"; None: that of the first pre-trained source."""
    out: Path = Path("runs/transfer")
    """Each run goes to OUT/<source>/<target>/<shots>-shot-seed-<seed>."""
    classes: tuple[str, ...] = ()
    """Only the images of these classes; empty for all."""
    shots_at_most: bool = False
    """Take what there is of classes with fewer images than shots, instead of refusing."""
    batch_size: int = 128
    base_lr: float = 0.001
    """Peak learning rate; not rescaled by the batch size."""
    steps: int | None = None
    """Optimiser steps, HyperRule's schedule in proportion; None: as the rule says."""
    image_size: int | None = None
    """Side of the square the model sees, pixels; None: as the rule says."""
    resize: int | None = None
    """Side before the random crop, pixels; None: the rule's ratio to the image size."""
    mixup_alpha: float | None = None
    """None: as the rule says."""
    balance: Balance | None = None
    """class: every class has the same share of an epoch; None: class for all images of flowers102 and covidx, as in the
    paper, otherwise none."""
    precision: Precision = "bf16"
    resume_anyway: bool = False
    """Go on although the configuration of a run changed."""
    runtime: Annotated[RuntimeConfig, tyro.conf.arg(name="")] = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        for shots in self.shots:
            if shots != FULL and not (shots.isdecimal() and int(shots) > 0):
                raise InputError(f"--shots {shots} is neither a number of at least 1 nor {FULL!r}")
        for name in ("batch_size", "base_lr", "steps", "image_size", "resize"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"--{name.replace('_', '-')} is {value}; it must be above 0")
        names = [source_name(source) for source in self.pretrained]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"several sources are called {', '.join(twice)}; rename their folders to tell them apart")
        if self.image_size is None and self.resize is not None:
            raise InputError("--resize needs --image-size")


def make_config(transfer: Transfer, source: str, model: str, shots: str, seed: int) -> tuple[Config, HyperRule]:
    """The configuration of one fine-tuning, and the choices of BiT-HyperRule for this many images of the target's size,
    or of the paper's authors for X-rays that they fine-tune in another way.

    Source: arXiv:1912.11370, sec. 3.3; batch size, learning rate and weight decay of arXiv:2106.00116.
    """
    data = DataConfig(
        sets=(transfer.target,),
        classes=transfer.classes,
        shots=None if shots == FULL else int(shots),
        shots_at_most=transfer.shots_at_most,
        train_view="resize_random_crop",
        eval_view="squash",
    )
    folders = folders_of(data, transfer.runtime)
    train = open_split(data, folders, "train", seed)
    if train is None:
        raise InputError(f"{transfer.target} has no train split")
    whole = open_split(replace(data, shots=None), folders, "train", seed)
    assert whole is not None
    rule = hyperrule(len(train), int(np.median(whole.height)), int(np.median(whole.width)))
    name = train.origins[0]
    xray_size = _XRAY_VIEW_SIZES.get(name)
    if xray_size:
        rule = replace(rule, size=xray_size, resize=xray_size)
    size = transfer.image_size or rule.size
    by_class = shots == FULL and name in _OVERSAMPLED
    config = Config(
        name=f"{source_name(source)}/{target_name(transfer.target)}/{shots}-shot-seed-{seed}",
        seed=seed,
        global_batch_size=transfer.batch_size,
        precision=transfer.precision,
        data=replace(
            data,
            image_size=size,
            resize=transfer.resize or round(size * rule.resize / rule.size),
            train_view="xray_affine" if xray_size else data.train_view,
            balance=transfer.balance or ("class" if by_class else "none"),
            mixup_alpha=rule.mixup_alpha if transfer.mixup_alpha is None else transfer.mixup_alpha,
        ),
        model=ModelConfig(
            model, head_init="zero", pretrained=None if source == SCRATCH else str(Path(source).resolve())
        ),
        optim=OptimConfig(base_lr=transfer.base_lr, rescale_lr=False, weight_decay=0.0),
        schedule=ScheduleConfig(
            kind="hyperrule", epochs=None, steps=transfer.steps or rule.schedule[-1], warmup_steps=0
        ),
        runtime=transfer.runtime,
    )
    return config, rule


def source_name(source: str) -> str:
    """How reports call a source: the name of its run folder or file."""
    if source == SCRATCH:
        return source
    path = Path(source).resolve()
    if path.parent.name == checkpoint.FOLDER:
        return f"{path.parent.parent.name}-{path.stem}"
    return path.stem if path.is_file() else path.name


def target_name(target: str) -> str:
    """How reports call a target: the name of its folder."""
    return Path(target).name


def models_of(transfer: Transfer) -> dict[str, str]:
    """The model of each source. Raises InputError where "scratch" has none to go by."""
    models = {
        source: checkpoint.describe(checkpoint.chosen(Path(source)))["model"]
        for source in transfer.pretrained
        if source != SCRATCH
    }
    if SCRATCH in transfer.pretrained:
        model = transfer.model or next(iter(models.values()), None)
        if model is None:
            raise InputError("from scratch alone there is no model to go by; name one with --model")
        models[SCRATCH] = model
    return {source: models[source] for source in transfer.pretrained}


@entry_point
def main() -> None:
    """Parse the command line and fine-tune."""
    transfer = tyro.cli(Transfer, description=__doc__)
    models = models_of(transfer)
    runs = [
        (source, shots, seed, *make_config(transfer, source, models[source], shots, seed))
        for source, shots, seed in product(transfer.pretrained, transfer.shots, transfer.seed)
    ]
    engine = ENGINES[transfer.runtime.engine](transfer.runtime, transfer.precision)
    for i, (source, shots, seed, config, rule) in enumerate(runs, 1):
        about: dict[str, Any] = {
            "kind": "transfer",
            "source": source_name(source),
            "target": target_name(transfer.target),
            "model": models[source],
            "shots": shots,
            "seed": seed,
            "rule": asdict(rule),
        }
        start = Start(transfer.out / config.name, resume_anyway=transfer.resume_anyway)
        result = run(config, start, engine, about)
        if engine.rank == 0:
            print(f"[{i}/{len(runs)}] {summary(result)}", flush=True)
    engine.close()


if __name__ == "__main__":
    main()
