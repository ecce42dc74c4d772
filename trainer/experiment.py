"""The life of a run: open, resume, train, test once, and leave a result. Pre-training and transfer differ only in their
configuration."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_pipelines.errors import InputError, RunError
from trainer import checkpoint
from trainer.config import Config, differences
from trainer.engines.base import Engine, RankLostError
from trainer.environment import describe_environment
from trainer.files import read_json, write_json
from trainer.job import Job, make_job
from trainer.loop import evaluate, train
from trainer.metrics import METRIC_NAME, metric_of
from trainer.models.bit import build_model
from trainer.optim.sgd_agc import SGDAGC, param_groups
from trainer.tracking import Tracker, write_status

CONFIG = "config.json"
RESULT = "result.json"


@dataclass(frozen=True)
class Start:
    """How this start treats what is already there."""

    run_dir: Path | None = None
    """Folder of the run; None: runs/<name>."""
    resume: bool = True
    """Go on with the run that is in the folder; --no-resume takes a new folder beside it."""
    resume_anyway: bool = False
    """Go on although the configuration changed."""


def run(config: Config, start: Start, engine: Engine, about: dict[str, Any]) -> dict[str, Any]:
    """Run to the end and return the result, which `result.json` holds too; `about` is put into it.

    Raises InputError for what the user can mend, RunError when training cannot go on.
    """
    run_dir = _run_dir(config, start, engine)
    job = make_job(config, run_dir)
    _check_batch(config, job, engine)
    settings = config.to_dict() | {"data_fingerprint": job.train.fingerprint}
    if config.model.pretrained is not None:
        settings["model"]["pretrained_weights"] = checkpoint.describe(_source(config))["weights"]
    result = _finished(run_dir, settings, start)
    if result is not None:
        write_status(run_dir, engine.rank, "finished", job.total_steps, job.total_steps)
        if engine.rank == 0:
            print(f"{run_dir} is finished", flush=True)
        return result
    if engine.rank == 0:
        for warning in job.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    environment = describe_environment(engine, job.loader_name)
    _wait_for_all(engine)  # every rank has looked at the folder before one writes to it
    if engine.rank == 0:
        _open_folder(run_dir, settings, environment)
    with _status_kept(job, engine):
        seconds = _train(job, engine)
        _wait_for_all(engine)  # rank 0 has written the last checkpoint before the others look for it
        result = {
            **about,
            "run": str(run_dir),
            "task": job.train.task,
            "metric": job.train.metric,
            "patients": job.train.patients,
            "settings": settings,
            "total_steps": job.total_steps,
            "train_images": len(job.train),
            "loader": job.loader_name,
            "environment": environment,
            "seconds": seconds,
            **_final_metrics(job, engine),
        }
    if engine.rank == 0:
        write_json(run_dir / RESULT, result)
        write_status(run_dir, engine.rank, "finished", job.total_steps, job.total_steps)
    return result


def _open_folder(run_dir: Path, settings: dict[str, Any], environment: dict[str, Any]) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / RESULT).unlink(missing_ok=True)  # of other settings, or it would have been returned
        write_json(run_dir / CONFIG, settings)
        write_json(run_dir / "environment.json", environment)
    except OSError as error:
        raise InputError(f"{run_dir} cannot be written ({error}); choose another --run-dir") from error


def summary(result: dict[str, Any]) -> str:
    """One line on what a run reached."""
    metric = metric_of(result)
    name = METRIC_NAME[metric]
    reached = [
        f"{split} {name} {result[split][metric]:.2%} ({result[split]['images']} images)"
        for split in ("val", "test")
        if split in result
    ]
    return f"{result['run']}: {', '.join(reached) or 'no val or test split'}, by {result['checkpoint']}"


def _run_dir(config: Config, start: Start, engine: Engine) -> Path:
    run_dir = start.run_dir or Path("runs") / config.name
    if start.resume:
        return run_dir
    # Rank 0 decides: by the time the others look, it may have made the folder.
    number = 1
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    while (run_dir if number == 1 else run_dir.with_name(f"{run_dir.name}-{number}")).exists():
        number += 1
    if restarted:  # by torchrun's --max-restarts: go on with the folder that the first attempt made
        number = max(1, number - 1)
    number = int(engine.sum(torch.tensor(number if engine.rank == 0 else 0)))
    return run_dir if number == 1 else run_dir.with_name(f"{run_dir.name}-{number}")


def _wait_for_all(engine: Engine) -> None:
    engine.sum(torch.zeros(1))


def _check_batch(config: Config, job: Job, engine: Engine) -> None:
    units, parts = config.global_batch_size // job.order.unit, engine.world_size
    if units < parts:
        raise InputError(
            f"--global-batch-size {config.global_batch_size} is too small for {parts} ranks; raise it to "
            f"{parts * job.order.unit} or start fewer ranks"
        )
    if units % parts and engine.rank == 0:
        print(f"warning: {parts} ranks share a batch of {config.global_batch_size} unequally", file=sys.stderr)


def _finished(run_dir: Path, settings: dict[str, Any], start: Start) -> dict[str, Any] | None:
    """The result of a finished run with these settings. Raises InputError if the folder holds a run with others."""
    before = read_json(run_dir / CONFIG)
    if before is None:
        if checkpoint.numbered(run_dir):
            raise InputError(f"{run_dir} has checkpoints but no readable {CONFIG}; name another folder with --run-dir")
        return None
    changed = differences(before, settings)
    other_model = [line for line in changed if line.startswith("model.")]
    if other_model:
        raise InputError(
            f"{run_dir} holds a run of another model:\n  " + "\n  ".join(other_model) + "\nName another folder"
        )
    if changed and not start.resume_anyway:
        raise InputError(
            f"{run_dir} holds a run with another configuration:\n  " + "\n  ".join(changed) + "\n"
            "Start a new run in another folder, or go on all the same with --resume-anyway"
        )
    result = read_json(run_dir / RESULT)
    return result if isinstance(result, dict) and not differences(result.get("settings", {}), settings) else None


def _train(job: Job, engine: Engine) -> float:
    """Build, resume and train; returns seconds."""
    config = job.config
    torch.manual_seed(config.seed)
    model = build_model(config.model.name, job.train.num_classes, config.model.head_init)
    if config.model.pretrained is not None:
        _load_backbone(model, config)
    optim = config.optim
    optimizer = SGDAGC(
        param_groups(model, job.train.num_classes, optim.agc_clipping, optim.paper_code),
        lr=0.0,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        nesterov=optim.paper_code,
    )
    size = config.data.image_size
    example = torch.zeros(job.micro_batch_size(engine), size, size, job.train.channels, dtype=torch.uint8)
    engine.prepare(model, optimizer, example.permute(0, 3, 1, 2))
    first_step, best = _resume(job, engine)
    tracker = Tracker(job.run_dir, engine.rank, first_step, job.total_steps, config.name)
    started = time.monotonic()
    try:
        write_status(job.run_dir, engine.rank, "running", first_step, job.total_steps)
        tracker.started(first_step, {"loader": job.loader_name, "world_size": engine.world_size})
        train(job, engine, tracker, first_step, best)
    finally:
        tracker.close()
    return time.monotonic() - started


def _source(config: Config) -> Path:
    return checkpoint.chosen(Path(str(config.model.pretrained)))


def _load_backbone(model: torch.nn.Module, config: Config) -> None:
    path = _source(config)
    loaded = checkpoint.load(path)
    if loaded.about["model"] != config.model.name:
        raise InputError(
            f"{path} holds a {loaded.about['model']}, not a {config.model.name}; take --model {loaded.about['model']}"
        )
    weights = checkpoint.backbone(loaded)
    expected = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    wrong = checkpoint.differing(expected, weights)
    if wrong:
        raise InputError(f"{path} does not fit {config.model.name}: {', '.join(wrong[:5])} missing or of another shape")
    model.load_state_dict(weights, strict=False)


def _resume(job: Job, engine: Engine) -> tuple[int, float | None]:
    """Load the newest checkpoint: steps done and the best metric so far; (0, None) without one."""
    found = checkpoint.numbered(job.run_dir)
    # Rank 0 decides: another node's view of the folder may be older.
    step = int(engine.sum(torch.tensor(checkpoint.step_of(found[-1]) if engine.rank == 0 and found else 0)))
    if step == 0:
        return 0, None
    loaded = checkpoint.load(checkpoint.path_of(job.run_dir, step))
    engine.load_state_dict(loaded.state)
    if engine.rank == 0:
        print(f"resuming {job.run_dir} at step {loaded.about['step']}", flush=True)
    return loaded.about["step"], loaded.about["best"]


def _final_metrics(job: Job, engine: Engine) -> dict[str, Any]:
    """Metrics of the chosen checkpoint on val and test, and which one it is. The only time that test is read."""
    path = checkpoint.chosen(job.run_dir)
    loaded = checkpoint.load(path)
    engine.load_state_dict(loaded.state)
    metrics: dict[str, Any] = {"checkpoint": path.name, "checkpoint_step": loaded.about["step"]}
    for name, index in (("val", job.val), ("test", job.test)):
        if index is not None:
            metrics[name] = evaluate(job, engine, index) | {"images": len(index)}
    return metrics


@contextmanager
def _status_kept(job: Job, engine: Engine) -> Iterator[None]:
    """Leave status.json saying how the run ended, whichever way it does."""

    def step() -> int:
        found = checkpoint.numbered(job.run_dir)
        return checkpoint.step_of(found[-1]) if found else 0

    def leave(state: str, reason: str) -> None:
        write_status(job.run_dir, engine.rank, state, step(), job.total_steps, reason)

    def terminated(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    previous = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    except RankLostError as error:
        leave("resumable", str(error))
        raise
    except (InputError, RunError) as error:
        leave("failed", str(error))
        raise
    except KeyboardInterrupt:
        leave("resumable", "interrupted")
        raise RunError(
            f"interrupted; the same command with --run-dir {job.run_dir} goes on from step {step()}"
        ) from None
    except SystemExit:
        leave("resumable", "terminated")
        raise
    except BaseException as error:
        leave("failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
