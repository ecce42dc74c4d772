"""The initial model of a run: built, loaded with its pre-trained weights, and handed to the engine."""

import torch
from torch import nn

from data_pipelines.common.messages import rank_0_logger
from trainer import checkpoint
from trainer.config import Config
from trainer.engine import Engine
from trainer.models.bit import BiTResNet, build_model
from trainer.models.weights import Weights, install, load_weights
from trainer.optim.sgd_agc import SGDAGC, param_groups
from trainer.run_files import CHECKPOINTS
from trainer.run_folder import unfinished
from trainer.training.job import Job


def starting_model(job: Job, engine: Engine, loads: bool = True) -> BiTResNet:
    """The initial model of the run, on the CPU; without `loads`, with random weights in place of pre-trained ones."""
    config = job.config
    torch.manual_seed(config.seed)
    settings = config.model
    assert settings.mean is not None and settings.std is not None  # noqa: PT018 - `make_job` has seen to it
    model = build_model(
        settings.name, job.train.num_classes, settings.head_init, settings.filter_init, settings.mean, settings.std
    )
    if settings.pretrained is not None and loads:
        _load_pretrained(model, job, engine)
    if config.mode == "finetune":
        model.freeze(settings.frozen_stages)
    return model


def prepare_model(job: Job, engine: Engine, loads: bool = True) -> int:
    """Give the engine the initial model of a run, without its head for a linear probe or k-NN; returns the number of
    outputs. Collective. `loads`: as for `starting_model`."""
    model, optim = starting_model(job, engine, loads), job.config.optim
    if job.config.mode != "finetune":
        num_features: int = model.head.in_features
        model.head = nn.Identity()  # type: ignore[assignment]
        engine.prepare(model, None, job.blank_images(1))
        return num_features
    optimizer = SGDAGC(
        param_groups(model, job.train.num_classes, optim.agc_clipping, optim.agc_head),
        lr=0.0,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        nesterov=optim.nesterov,
    )
    engine.prepare(model, optimizer, job.blank_images(job.largest_pass(engine)))
    return job.train.num_classes


def num_parameters(config: Config, num_classes: int, trained: bool = False) -> int:
    """Number of parameters of a configuration's model; with `trained`, of those that are not frozen."""
    with torch.device("meta"):
        model = build_model(config.model.name, num_classes)
    model.freeze(config.model.frozen_stages)
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)


def checkpoint_bytes(config: Config, num_classes: int) -> int:
    """Size of a checkpoint: fp32 weights, and momentum of what is trained."""
    return 4 * (num_parameters(config, num_classes) + num_parameters(config, num_classes, trained=True))


def _load_pretrained(model: BiTResNet, job: Job, engine: Engine) -> None:
    settings = job.config.model
    weights = load_weights(str(settings.pretrained))
    warnings = install(weights, model, settings.name, job.train.classes, settings.keep_head)
    for warning in filter(None, [*warnings, _unfinished_note(weights)]):
        rank_0_logger.warning(warning)


def _unfinished_note(weights: Weights) -> str:
    """Empty unless the weights lie in a run that is not finished."""
    run_dir = weights.path.parent.parent
    if weights.path.parent.name != CHECKPOINTS or (state := unfinished(run_dir)) is None:
        return ""
    of = "" if state.total_steps is None else f" of {state.total_steps:,}"
    step = checkpoint.describe(weights.path)["step"]
    return f"{run_dir} is not finished: these weights are of step {step:,}{of}{state.remedy}"
