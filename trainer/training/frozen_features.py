"""Baselines on frozen features: linear probe or nearest neighbours, run and reported like a fine-tuning."""

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipelines.common.splits import Split
from data_pipelines.shards.index import Index
from trainer.config import Config
from trainer.engine import Engine
from trainer.metrics import compute_metrics
from trainer.training.job import Job, RunOutput
from trainer.training.launch_options import LaunchOptions
from trainer.training.linear_probe import NEIGHBOURS, Linear, Standardizer, fit_linear, nearest_neighbours
from trainer.training.memory import resolve_micro_batch_size
from trainer.training.model import prepare_model
from trainer.training.prediction import predict
from trainer.training.run import run

_L2 = [10.0**exponent for exponent in range(1, -7, -1)]
_PATIENCE = 2  # weaker penalties that are no better before the rest is left out: these take longest


def run_frozen(config: Config, launch: LaunchOptions, engine: Engine, result_fields: dict[str, Any]) -> dict[str, Any]:
    """Fit a "probe" or "knn", as `result_fields["mode"]` says, and return the result; otherwise like `run`."""
    return run(replace(config, mode=result_fields["mode"]), launch, engine, result_fields, fit_and_predict)


def fit_and_predict(job: Job, engine: Engine) -> RunOutput:
    """Compute the features of every split once, with evaluation views; then fit, on every rank alike."""
    started = time.monotonic()
    fitting = resolve_micro_batch_size(job, engine)
    num_features = prepare_model(fitting, engine)

    def features_of(index: Index) -> Tensor:
        return predict(fitting, engine, index, num_features).to(engine.device)

    train, labels = features_of(job.train), torch.from_numpy(np.array(job.train.labels))
    held_out = {split: features_of(index) for split, index in job.held_out.items()}
    fit = _neighbours if job.config.mode == "knn" else _probe
    logits, details = fit(job, train, labels, held_out)
    predicted = {split: (index, logits[split]) for split, index in job.held_out.items()}
    return RunOutput(time.monotonic() - started, predicted, details | {"checkpoint_step": 0})


Fitted = tuple[dict[Split, Tensor], dict[str, Any]]


def _neighbours(job: Job, train: Tensor, labels: Tensor, held_out: dict[Split, Tensor]) -> Fitted:
    num_classes = job.train.num_classes
    logits = {split: nearest_neighbours(train, labels, part, num_classes) for split, part in held_out.items()}
    return logits, {"checkpoint": f"the nearest {min(NEIGHBOURS, len(train))} neighbours"}


def _probe(job: Job, train: Tensor, labels: Tensor, held_out: dict[Split, Tensor]) -> Fitted:
    standardize = Standardizer.fit(train)
    held_out = {split: standardize(part) for split, part in held_out.items()}
    linear, details = _chosen_probe(job, standardize(train), labels, held_out.get("val"))
    how = "chosen on val" if details["probe"]["val"] else "as val cannot choose it"
    details["checkpoint"] = f"a linear probe with L2 {details['probe']['l2']:g}, {how}"
    return {split: linear.logits(part) for split, part in held_out.items()}, details


def _chosen_probe(job: Job, train: Tensor, labels: Tensor, val: Tensor | None) -> tuple[Linear, dict[str, Any]]:
    """The probe whose L2 is best on val, with ties broken towards the strongest. Without val, or where val cannot
    decide, the probe with scikit-learn's default, 1 / images."""
    weights = job.train.weights(job.config.data.balance)
    counts = None if weights is None else torch.from_numpy(np.array(weights))
    chosen: Linear | None = None
    l2, best, no_better = 1 / len(train), -math.inf, 0
    tried: dict[str, float] = {}
    linear: Linear | None = None
    for penalty in _L2 if val is not None else ():
        assert val is not None and job.val is not None  # noqa: PT018
        linear = fit_linear(train, labels, job.train.num_classes, penalty, counts, linear)
        metric = compute_metrics(linear.logits(val), job.val)[job.train.metric]
        tried[f"{penalty:g}"] = metric
        if metric > best:
            chosen, l2, best, no_better = linear, penalty, metric, 0
        elif (no_better := no_better + 1) == _PATIENCE:
            break
    if chosen is None:
        chosen, tried = fit_linear(train, labels, job.train.num_classes, l2, counts), {}
    return chosen, {"probe": {"l2": l2, "val": tried, "converged": chosen.converged}}
