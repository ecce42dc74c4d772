"""A finished run read from disk: its metadata, model and data."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json
from data_pipelines.common.splits import Split
from data_pipelines.datasets.catalog import find
from data_pipelines.loading.views import PolicyName
from data_pipelines.shards.heads import Head, choose_head, heads_of, refuse_head
from data_pipelines.shards.index import Index
from trainer import checkpoint
from trainer.config import Config, config_of, differences
from trainer.evaluation.calibration.conformal import calibrate
from trainer.evaluation.calibration.novelty import KEY as NOVELTY_KEY
from trainer.evaluation.calibration.novelty import Novelty, read_novelty
from trainer.evaluation.calibration.operating import HEADS_KEY, KEY, UNFITTED, OperatingPoints, fit_operating_points
from trainer.evaluation.statistics.predictions import Predictions, load_predictions, saved_splits
from trainer.normalisation import BIT_MEAN, BIT_STD, PerChannel, require_mean, require_std
from trainer.run_files import CHECKPOINTS, CONFIG, RESULT, require_run
from trainer.run_folder import RunStatus, unfinished
from trainer.splits import open_split, set_digests

_NEEDED = ("model", "task", "classes", "image_size", "resize", "eval_view", "channels")
_NARROW = "the version of the program that fitted it searched a narrower range"
_NO_SETS = "the version of the program that trained it did not calibrate them"


@dataclass(frozen=True)
class Run:
    """folder: of the run, or of the file. path: its chosen checkpoint, None for a run that keeps none (probe, knn).
    metadata: what the checkpoint says. result, settings: of the folder, {} without. head: the one that is looked at, of
    a run with several; `metadata` then has its classes and operating points."""

    folder: Path
    path: Path | None
    metadata: dict[str, Any]
    result: dict[str, Any]
    settings: dict[str, Any]
    head: Head | None = None

    @property
    def heads(self) -> tuple[Head, ...]:
        """One for each set; empty where one head is for all."""
        return heads_of(self.metadata.get("heads") or {})

    def with_head(self, name: str | None, may_lack: bool = False) -> "Run":
        """The run with one of its heads. Raises InputError for a name that it has not, for none where it has heads, and
        unless it `may_lack` heads, for one where it has not."""
        if not self.heads:
            refuse_head(None if may_lack else name, self.folder)
            return self
        head = choose_head(self.heads, name, self.folder)
        metadata = {key: value for key, value in self.metadata.items() if key != KEY} | {"classes": list(head.classes)}
        if points := self.metadata.get(HEADS_KEY, {}).get(head.name):
            metadata[KEY] = points
        return replace(self, metadata=metadata, head=head)

    @property
    def name(self) -> str:
        """The run in words: the name in its configuration, or of its folder."""
        return str(self.settings.get("name") or self.folder.name)

    @property
    def trained_on(self) -> str:
        """The splits that it was trained on: "train", or "train+val"."""
        return str(self.metadata.get("trained_on") or self.result.get("trained_on") or "train")

    def unfinished(self) -> RunStatus | None:
        """The status of a run that is not finished; else None."""
        return unfinished(self.folder)

    def set_digests(self) -> dict[str, str]:
        """What identifies the sets of the run, by name; {} of one of an earlier version whose sets are not at hand."""
        noted = self.metadata.get("set_digests") or self.result.get("set_digests")
        if isinstance(noted, dict):
            return {str(name): str(digest) for name, digest in noted.items()}
        try:
            index, folders = own_data(self, "train")
        except InputError:
            return {}
        return set_digests(folders) if index.fingerprint == self.settings.get("data_fingerprint") else {}

    def sets(self) -> list[tuple[str, str]]:
        """The sets that it was trained on, and what identifies each, "" where that is not known."""
        digests = self.set_digests()
        return [(name, digests.get(name, "")) for name in self.metadata.get("sets") or digests]

    def source_sets(self) -> list[tuple[str, str]]:
        """Those that the weights it began with were trained on."""
        digests = self.result.get("source_set_digests") or {}
        return [(name, digests.get(name, "")) for name in self.result.get("source_sets") or ()]

    def points(self) -> OperatingPoints:
        """What was fitted on val: as the checkpoint says, else by the predictions for val."""
        saved = self.metadata.get(KEY)
        if isinstance(saved, dict):
            points = OperatingPoints.from_dict(saved)
            if "sets" not in saved:
                points = self._with_sets(points)
            if points.temperature == 1 and "temperature_unfitted" not in saved:
                return replace(points, temperature_unfitted=_NARROW)
            return points
        if self.trained_on == "train+val":
            return UNFITTED
        if "val" not in saved_splits(self.folder):
            state = self.unfinished()
            why = f"the run is not finished ({state.progress})" if state else OperatingPoints.no_val
            return OperatingPoints(no_val=why)
        return fit_operating_points(self._val())

    def _with_sets(self, points: OperatingPoints) -> OperatingPoints:
        """With what an earlier version did not calibrate: by the predictions for val, where the run kept them."""
        if not points.images or "val" not in saved_splits(self.folder):
            return replace(points, no_sets=_NO_SETS)
        return replace(points, sets=calibrate(self._val(), points.temperature), no_sets=_NO_SETS)

    def _val(self) -> Predictions:
        predictions = load_predictions(self.folder, "val")
        return predictions if self.head is None else predictions.of_head(self.head)

    def novelty(self) -> Novelty | str:
        """What tells how unlike the training images an image is, or why nothing does. Raises InputError for a damaged
        one."""
        if self.trained_on == "train+val":
            return UNFITTED.no_val
        if NOVELTY_KEY not in self.metadata and (state := self.unfinished()):
            return f"the run is not finished ({state.progress})"
        try:
            return read_novelty(self.metadata.get(NOVELTY_KEY))
        except ValueError as error:
            raise InputError(f"{self.path}: {error}; take another checkpoint") from error

    @property
    def mean(self) -> PerChannel:
        """Of the inputs, for pixels in [0, 1]; earlier versions knew 0.5 only. Raises InputError for what is none."""
        mean: PerChannel = tuple(self.metadata.get("mean") or BIT_MEAN)
        require_mean(mean, f"{self.path}:")
        return mean

    @property
    def std(self) -> PerChannel:
        """Their standard deviation, likewise."""
        std: PerChannel = tuple(self.metadata.get("std") or BIT_STD)
        require_std(std, f"{self.path}:")
        return std

    def described(self) -> dict[str, Any]:
        """What the checkpoint says. Raises InputError where there is none, or it is of a version that said less."""
        if self.path is None:
            raise InputError(f"{self.folder} keeps no model ({self.result.get('mode', 'unfinished')}); fine-tune one")
        missing = [name for name in _NEEDED if name not in self.metadata]
        if missing or self.metadata["eval_view"] not in get_args(PolicyName):
            raise InputError(
                f"{self.path} is of another version: it does not say {', '.join(missing) or 'a known view'}; run the "
                "same training command again with this version"
            )
        return self.metadata


def open_run(source: Path, head: str | None = None, may_lack_heads: bool = False) -> Run:
    """A run folder, or one of its checkpoints, with one of its heads if it has several. Raises InputError for anything
    else, and as `Run.with_head`."""
    require_run(source)
    if source.is_file():
        folder = source.parent.parent if source.parent.name == CHECKPOINTS else source.parent
        path: Path | None = source
    else:
        folder = source
        has_model = (source / CHECKPOINTS).is_dir() and any((source / CHECKPOINTS).iterdir())
        path = checkpoint.best_or_latest(source) if has_model or not (source / RESULT).is_file() else None
    result, settings = read_json(folder / RESULT), read_json(folder / CONFIG)
    run = Run(
        folder=folder,
        path=path,
        metadata=checkpoint.describe(path) if path else {},
        result=result if isinstance(result, dict) else {},
        settings=settings if isinstance(settings, dict) else {},
    )
    return run.with_head(head, may_lack_heads)


def own_data(run: Run, split: Split) -> tuple[Index, list[Path]]:
    """The split of the sets that the run was trained on, and their folders. Raises InputError where they are gone or
    changed."""
    saved = run.settings.get("data")
    if not isinstance(saved, dict):
        raise InputError(f"{run.folder} has no readable {CONFIG}")
    data = config_of({"data": saved}).data
    folders = [find(name) for name in data.sets]
    noted = run.metadata.get("set_digests") or run.result.get("set_digests")
    if noted and sorted(noted.values()) != sorted(set_digests(folders).values()):
        raise InputError(f"{', '.join(data.sets)} was prepared again since the run was trained, or is another set")
    index = open_split(data, folders, split, int(run.settings.get("seed", Config.seed)))
    if index is None:
        raise InputError(f"{', '.join(data.sets)} has no {split} split")
    return index, folders


@dataclass(frozen=True)
class Seed:
    """A run that differs in its seed alone. value: its metric on test."""

    seed: int
    value: float


def over_seeds(run: Run) -> list[Seed]:
    """This run and those beside its folder that differ in the seed alone, by seed; nothing where there is no other."""
    metric, own = run.result.get("metric"), _less_seed(run.result)
    found: dict[int, float] = {}
    for path in run.folder.resolve().parent.glob(f"*/{RESULT}"):
        other = read_json(path)
        with suppress(AttributeError, KeyError, TypeError, ValueError):  # a broken one says nothing of the others
            tested = other["test"] if run.head is None else other["heads"][run.head.name]["test"]
            settings, value = _less_seed(other), float(tested[metric])
            # A run of an earlier version lacks the settings that were added since.
            if not differences(own, settings) or not differences(settings, own):
                found[int(other["settings"]["seed"])] = value
    return [Seed(seed, found[seed]) for seed in sorted(found)] if len(found) > 1 else []


def _less_seed(result: dict[str, Any]) -> dict[str, Any]:
    settings = result.get("settings") or {}
    data = settings.get("data") or {}
    # Some of the images are drawn by the seed; how a run is executed changes no number.
    are_drawn = data.get("shots") is not None or data.get("images") is not None
    left_out = {"seed", "name", "runtime"} | ({"data_fingerprint"} if are_drawn else set())
    rest = {name: value for name, value in settings.items() if name not in left_out}
    return rest | {name: result.get(name) for name in ("kind", "source", "target", "shots", "mode")}
