"""What a run says as soon as it is known: what it does, on what, and which GPUs it leaves idle."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from data_pipelines.common.advice import as_word, quoted
from data_pipelines.common.printable import printable
from data_pipelines.shards.image_cap import images_of_sets
from trainer.config import frozen_words
from trainer.engine import Engine
from trainer.optim.lr_schedules import peak_lr
from trainer.training.job import Job

_TRANSFER = {"finetune": "fine-tune", "probe": "linear probe", "knn": "nearest neighbours"}
_LAUNCHER = Path(__file__).resolve().parents[2] / "launchers" / "torchrun.sh"


def start_line(job: Job, engine: Engine, kind: str, device: str) -> str:
    """One line: work, name, model, ranks, device, images, pixels, steps, batch, learning rate and folder.

    kind: as in `result.json`. device: its name.
    """
    config = job.config
    work = _TRANSFER[config.mode] if kind == "transfer" else kind
    ranks = "" if engine.world_size == 1 else f"{engine.world_size} ranks on "
    training = f"{job.total_steps:,} steps of {config.global_batch_size:,}, peak learning rate {peak_lr(config):g}"
    frozen = frozen_words(config.model.frozen_stages) if config.mode == "finetune" else ""
    parts = [
        f"{config.model.name}{frozen} in {config.precision} on {ranks}{engine.device.type} ({device})",
        f"{len(job.train):,} images of {_sets(job)} at {config.data.image_size} px",
        *([training] if config.mode == "finetune" else []),
        f"in {job.run_dir}",
    ]
    return printable(f"{work} {config.name}: {', '.join(parts)}")


def _sets(job: Job) -> str:
    """The sets, with how many images of each where these were chosen, and how many findings its head has."""
    data, heads = job.config.data, {head.name: len(head.classes) for head in job.train.heads}
    if data.images is None and not heads:
        return ", ".join(data.sets)
    words = []
    for name, count in images_of_sets(job.train).items():
        about = [f"{count:,}"] if data.images is not None else []
        about += [f"a head of {heads[name]}"] if heads else []
        words.append(f"{name} ({', '.join(about)})")
    return ", ".join(words)


def idle_gpus(engine: Engine, kind: str, argv: Sequence[str] = sys.argv) -> str | None:
    """How many GPUs of this machine a run on one of them leaves idle, and the command that uses all; None if none."""
    if engine.device.type != "cuda" or engine.world_size > 1:
        return None
    count = torch.cuda.device_count()
    if count < 2:
        return None
    arguments = list(argv[1:])
    if arguments[:1] == [kind]:  # of the command that has others within it
        del arguments[0]
    idle = "1 more GPU is" if count == 2 else f"{count - 1} more GPUs are"
    return f"{idle} idle; all {count}: {' '.join([*_launch(kind, count), *map(as_word, arguments)])}"


def _launch(kind: str, count: int) -> list[str]:
    if kind == "pretrain" and _LAUNCHER.is_file():
        return [quoted(_near(_LAUNCHER)), "--nproc", str(count), "--"]
    script = Path(__file__).resolve().parents[1] / f"{kind}.py"
    return ["torchrun", "--standalone", "--nproc-per-node", str(count), quoted(_near(script))]


def _near(path: Path) -> Path:
    """A path as short as it can be typed here."""
    here = os.getcwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def start_lines(job: Job, engine: Engine, result_fields: Mapping[str, Any], device: str) -> list[str]:
    """The lines of a run of this kind, which rank 0 says."""
    kind = str(result_fields.get("kind", "train"))
    idle = idle_gpus(engine, kind) if kind in ("pretrain", "transfer") else None
    return [start_line(job, engine, kind, device), *([] if idle is None else [idle])]
