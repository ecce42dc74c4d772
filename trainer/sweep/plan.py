"""The plan of a sweep: every run's configuration, created and checked before the first run starts."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, product
from pathlib import Path

from data_pipelines.common.errors import ImpossibleError, InputError
from data_pipelines.common.files import read_json, write_json
from data_pipelines.common.manifest import content_digest, read_manifest
from data_pipelines.datasets import catalog
from data_pipelines.datasets.overlap import namesake_note, shares_images
from data_pipelines.loading.sampler import BatchSampler
from trainer import checkpoint
from trainer.config import Config
from trainer.finetuning.command_line import flags_of
from trainer.finetuning.finetune import (
    SCRATCH,
    Options,
    Target,
    Transfer,
    make_config,
    models_of,
    open_target,
    set_digests_of,
    sets_of,
    source_name,
    target_name,
)
from trainer.optim.lr_schedules import num_steps
from trainer.run_files import RESULT
from trainer.run_folder import read_metrics
from trainer.sweep.trials import Trial, Trials, Variant, with_variant, without_weights
from trainer.sweep.variations import Varied
from trainer.training.job import normalised
from trainer.training.start import LaunchOptions, find_result, summary

_TRANSFER = Path(__file__).resolve().parents[1] / "transfer.py"  # `-m` would look for it in the working folder first


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """One run of a sweep. steps: optimiser steps of the whole run; with frozen features a single pass, which counts as
    one step. first_step: step at which it starts or resumes. predicted_images: images of forward passes beside those
    of training. trial: folder of the settings that are varied."""

    transfer: Transfer
    config: Config
    is_finished: bool
    steps: int
    first_step: int
    predicted_images: int
    trial: str = ""

    @property
    def name(self) -> str:
        """<source>/<target>/<shots>-shot-seed-<seed>, behind the folder of a trial."""
        return f"{self.trial}/{self.config.name}" if self.trial else self.config.name

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return self.transfer.options.out / self.config.name

    def has_result(self) -> bool:
        """Whether it is finished."""
        return isinstance(read_json(self.run_dir / RESULT), dict)

    def summary(self) -> str:
        """One line with its result, for a finished run."""
        return summary(read_json(self.run_dir / RESULT))

    def steps_done(self) -> int:
        """Steps done according to the run's metrics; before the first row, those of the checkpoint that it resumes
        from."""
        rows = read_metrics(self.run_dir)
        return min(self.steps, max(self.first_step, rows[-1]["step"] if rows else 0))


@dataclass(frozen=True, eq=False)
class Plan:
    """runs: in order of execution. left_out: cells whose source has seen the target, and why. impossible: cells that
    are skipped, and why. notes: remarks on the others."""

    runs: list[PlannedRun]
    left_out: list[str]
    impossible: list[str]
    notes: list[str]

    @property
    def pending(self) -> list[PlannedRun]:
        """The runs that are not finished."""
        return [run for run in self.runs if not run.is_finished]


def make_plan(
    sources: Sequence[str],
    targets: Sequence[str],
    shots: Sequence[str],
    seeds: int,
    options: Options,
    skip_impossible: bool = False,
    varied: Varied | None = None,
) -> Plan:
    """Plan the runs of all sources on all targets, seeds outermost, so that every cell gets its first result early;
    with `varied`, each for every combination of these values, in a folder of its own below `out`.

    Raises InputError where a source, a target or a folder does not allow a run; problems of targets, and all cells with
    too few images, come in one message. With `skip_impossible` these cells are left out.
    """
    _require_distinct("sources", sources, source_name)
    _require_distinct("targets", targets, target_name)
    _require_distinct("shots", shots)
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}; it is the number of seeds, at least 1")
    models = models_of(sources, options.given.get("model.name"))
    excluded, left_out, notes = _overlapping(sources, targets, options)
    plan, trials, troubles = Plan([], left_out, [], notes), Trials(varied or {}), list[str]()
    for seed, target, number, variants in product(range(seeds), targets, shots, trials.by_images()):
        cell = [
            Transfer(source, target, number, seed, _options_for(source, options, models))
            for source in sources
            if (source, target) not in excluded
        ]
        try:
            if cell:
                plan.runs.extend(_plan_cell(cell, trials, variants, models, plan.notes))
        except ImpossibleError as error:
            if seed == 0:  # each seed draws from the same images
                plan.impossible.append(_impossible(cell, error))
        except InputError as error:
            troubles.append(str(error))
    if plan.impossible and not skip_impossible:
        troubles += ["these cells are impossible, and --skip-impossible runs the others:", *plan.impossible]
    if troubles:
        troubles = list(dict.fromkeys(troubles))
        raise InputError("\n  ".join(["nothing was started:", *troubles]) if troubles[1:] else troubles[0])
    plan.notes.extend([*_notes_on_scratch(sources, options), *trials.notes()])
    return plan


def _impossible(cell: Sequence[Transfer], error: ImpossibleError) -> str:
    names = (f"{source_name(run.pretrained)}/{target_name(run.target)}/{run.shots}-shot" for run in cell)
    return f"{', '.join(names)}: {error}"


def _notes_on_scratch(sources: Sequence[str], options: Options) -> list[str]:
    if SCRATCH not in sources or not options.given.get("model.frozen_stages"):
        return []
    return [f"{SCRATCH}: all stages are trained, as {without_weights(options.given)['model.frozen_stages']}"]


def _require_distinct(what: str, given: Sequence[str], name_of: Callable[[str], str] = str) -> None:
    names = [name_of(word) for word in given]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not twice:
        return
    hint = "" if what == "shots" else "; name each once, and rename folders that are called alike"
    alike = {Path(word).resolve() for word, name in zip(given, names, strict=True) if name == twice[0]}
    folders = sorted(path for path in alike if path.is_dir())
    if len(folders) > 1:
        hint += f": {shlex.join(['mv', str(folders[-1]), str(_free_name(folders[-1]))])}"
    raise InputError(f"--{what}: several are {', '.join(twice)}{hint}")


def _free_name(folder: Path) -> Path:
    """An unused name beside a folder."""
    return next(path for n in count(2) if not (path := folder.with_name(f"{folder.name}-{n}")).exists())


def _overlapping(
    sources: Sequence[str], targets: Sequence[str], options: Options
) -> tuple[set[tuple[str, str]], list[str], list[str]]:
    """Pairs of source and target that share images, with the reason; and notes on pairs whose sets only share a
    name."""
    if options.overlap_excluded:
        return set(), [], []
    pairs, left_out, notes = set(), [], []
    for target in targets:
        manifest = read_manifest(catalog.find(target))
        name, digest = manifest["name"], content_digest(manifest)
        for source in sources:
            sets, digests = sets_of(source), set_digests_of(source)
            cells = f"{source_name(source)} to {target_name(target)}"
            if reason := shares_images(sets, name, digests, digest):
                pairs.add((source, target))
                left_out.append(f"{cells}: {reason}")
            elif note := namesake_note(sets, name, digests, digest):
                notes.append(f"{cells}: {note}")
    return pairs, left_out, notes


def _options_for(source: str, options: Options, models: dict[str, str]) -> Options:
    """Options for a source: from scratch, the model is named and nothing of weights is kept; other sources determine
    their model."""
    if source == SCRATCH:
        return options.without(*without_weights(options.given)).with_given(**{"model.name": models[source]})
    return options.without("model.name")


def _plan_cell(
    cell: Sequence[Transfer], trials: Trials, variants: Sequence[Variant], models: dict[str, str], notes: list[str]
) -> Iterator[PlannedRun]:
    """The runs of all sources, and of variants that see the same images of a target, which are opened once."""
    first = cell[0]
    target = open_target(replace(first, options=with_variant(first.options, variants[0])))
    wanted = first.config_shots or 1
    short = target.train.below(wanted) if target.train.task == "single_label" and first.seed == 0 else []
    if short:
        note = f"{target_name(first.target)} has fewer than {wanted} training images of: {', '.join(short)}"
        notes += [note] if note not in notes else []
    for transfer in cell:
        model = models[transfer.pretrained]
        for trial in trials.of(transfer, variants, model, target):
            yield _plan_run(trial, model, target)


def _plan_run(trial: Trial, model: str, target: Target) -> PlannedRun:
    transfer = trial.transfer
    config, _ = make_config(transfer, model, target)
    run_dir = transfer.options.out / config.name
    config = replace(config, model=normalised(config.model, run_dir))
    launch = LaunchOptions(run_dir, allow_config_change=transfer.options.allow_config_change)
    result = find_result(config, launch, target.train, target.metadata())
    return PlannedRun(
        transfer=transfer,
        config=config,
        is_finished=result is not None,
        steps=_steps(config, target),
        first_step=checkpoint.last_step(run_dir),
        predicted_images=_predicted_images(transfer, target),
        trial=trial.folder,
    )


def _steps(config: Config, target: Target) -> int:
    if config.mode != "finetune":
        return 1
    weights = target.train.weights(config.data.balance)
    order = BatchSampler(len(target.train), config.global_batch_size, config.seed, weights=weights)
    return num_steps(config, order.epoch_size)


def _predicted_images(transfer: Transfer, target: Target) -> int:
    val, test = target.held_out.get("val", 0), target.held_out["test"]
    # val at the end of training and, like test, for the result; frozen features once, those of train as well
    return 2 * val + test if transfer.options.mode == "finetune" else len(target.train) + val + test


def write_plan(path: Path, name: str, runs: Sequence[PlannedRun]) -> None:
    """Write the plan file that `bitscale submit` runs as an array. Raises InputError if it cannot be
    written."""
    tasks = [
        {
            "name": run.name,
            "command": ["python", str(_TRANSFER), *flags_of(run.transfer)],
            "done": str(run.run_dir / RESULT),
        }
        for run in runs
    ]
    on_cpu = all(run.config.runtime.device == "cpu" for run in runs)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"name": name, "tasks": tasks, "gpus_per_task": 0 if on_cpu else 1})
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}); choose another --plan") from error
