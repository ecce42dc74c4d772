"""The life of a run: open the folder, resume, train, test once, write the result; `run_end.py` records how it ended.
Pre-training and transfer differ only in their configuration."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.common.advice import flag, has_flag
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json, write_json
from data_pipelines.common.messages import logger, rank_0_logger
from trainer import checkpoint
from trainer.config import Config, differences
from trainer.engine import Engine
from trainer.evaluation.results import final_metrics, save_predictions
from trainer.profiling.recorder import require_steps_to_profile, warn_profile_not_recorded
from trainer.run_files import CONFIG, PREDICTIONS, RESULT, STATUS, SUBSET
from trainer.run_folder import (
    claim,
    describe_environment,
    elsewhere,
    locked,
    next_free,
    open_rank_log,
    refuse_other_versions,
    require_lock,
    run_status,
    write_environment,
)
from trainer.training.changed_data import changed_sets, data_before, remake_advice, require_same_outputs
from trainer.training.fit import train_and_predict
from trainer.training.job import Job, RunOutput, make_job, settings_of, write_subset
from trainer.training.launch_options import LaunchOptions, run_dir_of
from trainer.training.preflight import decisive_facts, preflight
from trainer.training.run_end import mark_finished, recorded_end
from trainer.training.saver import UnsavedError
from trainer.training.start_line import start_lines

_UNDER_WAY_S = 60.0  # since the last sign of life of a run
TrainFn = Callable[[Job, Engine], RunOutput]


def run(
    config: Config,
    launch: LaunchOptions,
    engine: Engine,
    result_fields: dict[str, Any],
    train_fn: TrainFn = train_and_predict,
) -> dict[str, Any]:
    """Train to the end with `train_fn` and return the result, also written to `result.json` with `result_fields`.

    Raises InputError for what the user can mend, RunError when training cannot go on.
    """
    run_dir = _run_dir(config, launch, engine)
    job = make_job(config, run_dir)
    _check_batch(config, job, engine)
    require_steps_to_profile(job)
    settings = settings_of(job.config, job.train.fingerprint)
    environment = describe_environment(engine, job.loader_name)
    engine.introduce(decisive_facts(job, settings, environment))
    if not launch.preflight_only:  # printed by the launch that trains, not by a preflight before it
        for line in start_lines(job, engine, result_fields, environment["device"]):
            rank_0_logger.info(line)
    if engine.world_size > 1 or launch.preflight_only:
        preflight(engine, job, settings, environment)
    result = _find_finished(job, settings, launch, engine)
    if launch.preflight_only:
        if run_status(run_dir, _UNDER_WAY_S, time.time()).state == "running":
            refuse_other_versions(run_dir, environment)
        warn_profile_not_recorded(job, engine, "--preflight-only trains nothing")
        return {}
    if result is not None:
        return _return_finished(job, engine, result)
    for warning in job.warnings:
        rank_0_logger.warning(warning)
    engine.barrier()  # every rank has looked at the folder before one writes to it
    if not launch.resume:
        # Another process may have taken the free name since.
        job = replace(job, run_dir=claim(run_dir_of(config, launch), job.run_dir, engine))
    with locked(job.run_dir, engine, config.runtime.timeout_s):
        result = _find_finished(job, settings, launch, engine)  # another process may have finished it meanwhile
        if result is not None:
            return _return_finished(job, engine, result)
        return _train_in_folder(job, engine, result_fields, train_fn, settings, environment)


def _return_finished(job: Job, engine: Engine, result: dict[str, Any]) -> dict[str, Any]:
    status = read_json(job.run_dir / STATUS)
    if not isinstance(status, dict) or status.get("state") != "finished":  # it was killed when it had its result
        mark_finished(job, engine.rank)
    if engine.rank == 0:
        print(f"{job.run_dir} is finished", flush=True)
    warn_profile_not_recorded(job, engine, _why_not_recorded())
    return result


def _train_in_folder(
    job: Job,
    engine: Engine,
    result_fields: dict[str, Any],
    train_fn: TrainFn,
    settings: dict[str, Any],
    environment: dict[str, Any],
) -> dict[str, Any]:
    """Train in a folder that no other process uses."""
    run_dir = job.run_dir
    if engine.rank == 0:
        _open_folder(job, settings, environment)
    open_rank_log(run_dir, engine)
    with recorded_end(job, engine):
        output = train_fn(job, engine)
        result = _result_of(job, output, result_fields, settings, environment)
        require_lock(run_dir, engine)
        if engine.rank == 0:
            _write_result(job, output, result)
    return result


def _write_result(job: Job, output: RunOutput, result: dict[str, Any]) -> None:
    try:
        save_predictions(job.run_dir, output.predicted)
        write_json(job.run_dir / RESULT, result)
    except OSError as error:
        raise UnsavedError(
            f"the result cannot be written to {job.run_dir} ({error}); make room and start the same command again"
        ) from error
    mark_finished(job, 0)


def _result_of(
    job: Job, output: RunOutput, result_fields: dict[str, Any], settings: dict[str, Any], environment: dict[str, Any]
) -> dict[str, Any]:
    """The content of `result.json`."""
    return {
        "mode": job.config.mode,
        "source_sets": [],
        "source_set_digests": {},
        "overlap_excluded": False,
        "protocol": "default",
        "departures": {},
        "prepared_size": [int(np.median(sides)) for sides in (job.train.height, job.train.width)],
        **result_fields,
        "run": str(job.run_dir),
        "task": job.train.task,
        "metric": job.train.metric,
        "patients": job.train.patients,
        "trained_on": job.metadata["trained_on"],
        "set_digests": job.metadata["set_digests"],
        "settings": settings,
        "total_steps": job.total_steps,
        "train_images": len(job.train),
        "loader": job.loader_name,
        "environment": environment,
        "seconds": output.seconds,
        **output.details,
        **final_metrics(output.predicted),
    }


def _open_folder(job: Job, settings: dict[str, Any], environment: dict[str, Any]) -> None:
    run_dir = job.run_dir
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        # Left by a run with other settings: with the same ones its result would have been returned.
        for name in (RESULT, PREDICTIONS, SUBSET):
            (run_dir / name).unlink(missing_ok=True)
        write_json(run_dir / CONFIG, settings)
        write_environment(run_dir, environment)
        if job.config.data.shots is not None:
            write_subset(run_dir, job.train)
    except OSError as error:
        raise InputError(f"{run_dir} cannot be written ({error}); {elsewhere()}") from error


def _run_dir(config: Config, launch: LaunchOptions, engine: Engine) -> Path:
    run_dir = run_dir_of(config, launch)
    if launch.resume:
        return run_dir
    return next_free(run_dir, engine)


def _check_batch(config: Config, job: Job, engine: Engine) -> None:
    groups, parts = config.global_batch_size // job.order.group_size, engine.world_size
    if groups < parts:
        raise InputError(
            f"{flag('--global-batch-size')} {config.global_batch_size} is too small for {parts} ranks; raise it to "
            f"{parts * job.order.group_size} or start fewer ranks"
        )
    if groups % parts and engine.rank == 0:
        logger.warning(
            f"{parts} ranks share a batch of {config.global_batch_size} unequally, so that in each step some wait for "
            f"others; a multiple of {parts * job.order.group_size} is shared equally"
        )


def result_if_finished(
    run_dir: Path, settings: dict[str, Any], launch: LaunchOptions, data: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The result of a finished run with these settings and this data; `data` is the data part of its checkpoints.
    Raises InputError if the folder holds a run with others."""
    stored = read_json(run_dir / CONFIG)
    if stored is None:
        if checkpoint.numbered(run_dir):
            raise InputError(
                f"{run_dir} has checkpoints but no readable {CONFIG}; name another folder with {flag('--out')}"
            )
        return None
    changed = differences(stored, settings)
    other_model = [line for line in changed if line.startswith("model.")]
    if other_model:
        raise InputError(
            f"{run_dir} holds a run of another model:\n  "
            + "\n  ".join(other_model)
            + f"\nName another folder: {flag('--out')} DIR"
        )
    previous = data_before(run_dir, RESULT)
    if changed:
        require_same_outputs(run_dir, previous, data)
    other_sets, result = changed_sets(previous, data), read_json(run_dir / RESULT)
    if (changed or other_sets) and not launch.allow_config_change:
        anew = remake_advice(run_dir, changed) if isinstance(result, dict) else ""
        raise InputError(
            f"{run_dir} holds a run with another configuration:\n  " + "\n  ".join(changed + other_sets) + "\n"
            f"Start a new run in another folder ({flag('--out')} DIR){anew or _how_to_continue(stored, settings)}"
        )
    if other_sets or not isinstance(result, dict) or differences(result.get("settings", {}), settings):
        return None
    return result


def _find_finished(job: Job, settings: dict[str, Any], launch: LaunchOptions, engine: Engine) -> dict[str, Any] | None:
    """Like `result_if_finished`, with the same answer on every rank: another process may write to the folder
    meanwhile, and file systems show that to some hosts sooner than to others. Collective."""
    result: dict[str, Any] | None = None
    error: str | None = None
    if engine.rank == 0:
        try:
            result = result_if_finished(job.run_dir, settings, launch, job.metadata)
        except (InputError, OSError) as caught:
            error = str(caught)
    result, error = engine.gather((result, error))[0]
    if error is not None:
        raise InputError(error)
    return result


def _why_not_recorded() -> str:
    return "the run is finished" + ("; --no-resume begins another one" if has_flag("--no-resume") else "")


def _how_to_continue(stored: dict[str, Any], settings: dict[str, Any]) -> str:
    """How to continue a run whose settings differ from this launch's."""
    was, now = (found.get("data", {}).get("train_on", "train") for found in (stored, settings))
    if was == now:
        return ", or go on all the same with --allow-config-change" if has_flag("--allow-config-change") else ""
    # What was chosen on val must not count for a run that trains on it: --allow-config-change would be refused later.
    return f", or go on with the images that it was trained on so far: {flag('--data.train-on')} {was}"
