"""The interface of this package to the programs: start a run and print its result, or describe it beforehand."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from data_pipelines.common.message_parts import number
from data_pipelines.common.messages import rank_0_logger
from data_pipelines.shards.index import Index
from trainer.config import Config
from trainer.engines import ENGINES
from trainer.metrics import METRIC_NAME, metric_of
from trainer.training.job import make_job, normalised, settings_of
from trainer.training.launch_options import LaunchOptions, run_dir_of
from trainer.training.model import checkpoint_bytes, num_parameters
from trainer.training.run import result_if_finished, run

__all__ = ["LaunchOptions", "find_result", "normalised", "plan_of", "run_dir_of", "start_run", "summary"]


def start_run(config: Config, launch: LaunchOptions, result_fields: dict[str, Any], warnings: Iterable[str]) -> None:
    """Run to the end on all ranks of this job, and print the result. Raises as `run` does."""
    engine = ENGINES[config.runtime.engine](config.runtime, config.precision)
    for warning in warnings:
        rank_0_logger.warning(warning)
    if config.mode == "finetune":
        result = run(config, launch, engine, result_fields)
    else:
        from trainer.training.frozen_features import run_frozen  # with scipy, which others need not wait for

        result = run_frozen(config, launch, engine, result_fields)
    if engine.rank == 0 and not launch.preflight_only:
        print(summary(result), flush=True)
    engine.close()


def summary(result: dict[str, Any]) -> str:
    """One line with the result of a run; where sets have a head each, with that of each, too."""
    metric = metric_of(result)
    name = METRIC_NAME[metric]
    reached = [
        f"{split} {name} {_percent(result[split][metric])} "
        f"({number(result[split]['images'], 'image')}{_of_heads(result, split)})"
        for split in ("val", "test")
        if split in result
    ]
    return f"{result['run']}: {', '.join(reached) or 'no val or test split'}, by {result['checkpoint']}"


def _of_heads(result: dict[str, Any], split: str) -> str:
    metric = metric_of(result)
    each = [
        f"{head} {_percent(found[split][metric])}" for head, found in result.get("heads", {}).items() if split in found
    ]
    return f"; {', '.join(each)}" if each else ""


def _percent(value: float) -> str:
    return "unknown, as nothing has both positives and negatives" if math.isnan(value) else f"{value:.2%}"


def find_result(config: Config, launch: LaunchOptions, train: Index, data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a run with this configuration, if finished. train: its training images; data: the data part of its
    checkpoints. Raises InputError if its folder holds a run with another configuration."""
    return result_if_finished(run_dir_of(config, launch), settings_of(config, train.fingerprint), launch, data)


def plan_of(config: Config, launch: LaunchOptions) -> dict[str, Any]:
    """What a run would do: steps, batch, images and the bytes of one checkpoint. Raises InputError if its folder holds
    a run with another configuration."""
    planned = replace(config, runtime=replace(config.runtime, cache_dir=None))  # a plan copies nothing
    job = make_job(planned, run_dir_of(config, launch))
    result = None
    if launch.resume:
        result = result_if_finished(job.run_dir, settings_of(job.config, job.train.fingerprint), launch, job.metadata)
    return {
        "name": config.name,
        "run_dir": str(job.run_dir),
        "finished": result is not None,
        "total_steps": job.total_steps,
        "global_batch_size": config.global_batch_size,
        "train_images": len(job.train),
        "parameters": num_parameters(config, job.train.num_classes),
        "min_ranks": config.runtime.min_ranks,
        "checkpoint_bytes": checkpoint_bytes(config, job.train.num_classes),
    }
