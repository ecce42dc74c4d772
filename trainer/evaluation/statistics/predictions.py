"""Predictions of a split: logits with labels, patients and facts of the images; reads a run's `predictions.npz`.

`predictions.npz` holds no pickles: `classes`, and for val and test `<split>_keys` (as in the shards), `<split>_logits`
float32 [N, C], `<split>_labels`, int64 [N] or float32 [N, C] with NaN = unlabelled, `<split>_patients`, int64 [N], -1
for unknown and equal for one patient, and `<split>_fact_<name>`, a text for each image, where the set has such facts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.lib.npyio import NpzFile

from data_pipelines.common.dates import are_dates, period_of
from data_pipelines.common.errors import InputError
from data_pipelines.common.printable import printable
from data_pipelines.common.splits import Split
from data_pipelines.common.tasks import Task
from data_pipelines.shards.columns import Array
from data_pipelines.shards.heads import Head
from data_pipelines.shards.index import Index
from trainer.evaluation.statistics.bootstrap import Bools, Floats, Ints
from trainer.metrics import known_labels, log_odds
from trainer.run_files import PREDICTIONS

_AGE_BANDS = (0, 18, 40, 60, 80)
UNKNOWN = "unknown"
_NO_NUMBERS = {"", "nan", "none"}


@dataclass(frozen=True, eq=False)
class Predictions:
    """N images. logits: float32 [N, C]. labels: int64 [N], or float32 [N, C] with NaN = unlabelled. patients: int64
    [N], numbers without meaning, -1 for unknown. facts: by name, such as "sex", a text for each image, "" where that
    is not known."""

    classes: tuple[str, ...]
    keys: tuple[str, ...]
    logits: Array
    labels: Array
    patients: Ints
    facts: dict[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def task(self) -> Task:
        return "single_label" if self.labels.ndim == 1 else "multi_label"

    def scores(self) -> Floats:
        """Log odds of each class or finding, float64 [C, N], from which AUC is computed."""
        return scores_of(self.logits, self.task)

    def known(self) -> list[tuple[Bools, Bools]]:
        """For each class or finding, which images are positive and which are negative."""
        found = known_labels(torch.from_numpy(np.array(self.labels)), self.classes)
        return [(positive, negative) for _, positive, negative in found]

    def most_common(self) -> tuple[str, float]:
        """The class that most images have, and its share: the accuracy of always answering it. For classes only."""
        counts = np.bincount(np.asarray(self.labels), minlength=len(self.classes))
        best = int(counts.argmax())
        return self.classes[best], float(counts[best] / max(1, len(self)))

    def take(self, rows: Array) -> "Predictions":
        """Some of the images."""
        return replace(
            self,
            keys=tuple(self.keys[row] for row in rows),
            logits=self.logits[rows],
            labels=self.labels[rows],
            patients=self.patients[rows],
            facts={name: [values[row] for row in rows] for name, values in self.facts.items()},
        )

    def of_head(self, head: Head) -> "Predictions":
        """The images of the set that a head is for, with its outputs alone."""
        taken = self.take(np.flatnonzero(np.array(self.facts["set"]) == head.name))
        return replace(
            taken, classes=head.classes, logits=taken.logits[:, head.columns], labels=taken.labels[:, head.columns]
        )

    def grouped(self) -> dict[str, dict[str, Ints]]:
        """For each fact, the rows of each of its values; ages in bands, dates by month. Facts with one value only are
        left out."""
        groups = {}
        for name, values in self.facts.items():
            texts = np.asarray([text or UNKNOWN for text in grouping(name, values)], dtype=str)
            names = sorted({*texts.tolist()}, key=lambda text: (text == UNKNOWN, text))
            if len(names) > 1:
                groups[name] = {text: np.flatnonzero(texts == text) for text in names}
        return groups


def scores_of(logits: Array, task: Task) -> Floats:
    """Log odds, float64 [C, N], of logits [N, C]: of the softmax for classes, the logits themselves for findings."""
    if task == "single_label":
        return log_odds(torch.from_numpy(np.array(logits)))
    return np.ascontiguousarray(np.asarray(logits, dtype=np.float64).T)


def grouping(name: str, values: Sequence[str]) -> list[str]:
    """The group of each value of a fact: the value itself, the band of an age, the month of a date; "" for unknown."""
    if name.casefold() == "age":
        return [age_band(value) for value in values]
    return [period_of(value, "month") for value in values] if are_dates(values) else list(values)


def age_band(text: str) -> str:
    """The band of an age in years: "40-59"; "" for what is no age."""
    try:
        age = float(text if text.casefold() not in _NO_NUMBERS else "-1")
    except ValueError:
        age = -1.0
    if age < 0:
        return ""
    start = max(bound for bound in _AGE_BANDS if bound <= age)
    later = [bound for bound in _AGE_BANDS if bound > start]
    return f"{start:02d}-{later[0] - 1}" if later else f"{start}+"


def columns_of(index: Index) -> dict[str, Any]:
    """For each sample: `keys`, `labels`, `patients` and `fact_<name>`, as in `predictions.npz`."""
    # Numbers in place of the hashes in the index: those could be found again by whoever can list all patients.
    known = np.asarray(index.group) >= 0
    patients = np.full(len(index), -1, dtype=np.int64)
    patients[known] = np.unique(np.asarray(index.group)[known], return_inverse=True)[1]
    columns: dict[str, Any] = {
        "keys": np.array(index.keys(np.arange(len(index))), dtype=str),
        "labels": np.asarray(index.labels),
        "patients": patients,
    }
    facts = index.facts()
    for name in dict.fromkeys(name for known_facts in facts for name in known_facts):
        columns[f"fact_{printable(name)}"] = np.array([known_facts.get(name, "") for known_facts in facts], dtype=str)
    if len(set(index.origins)) > 1:
        columns["fact_set"] = np.array(index.origins, dtype=str)[index.shard]
    return columns


def of_index(index: Index, logits: Array) -> Predictions:
    """The predictions for an index, in its order."""
    columns = columns_of(index)
    facts = {
        name.removeprefix("fact_"): values.tolist() for name, values in columns.items() if name.startswith("fact_")
    }
    keys = tuple(columns["keys"].tolist())
    return Predictions(index.classes, keys, np.asarray(logits), columns["labels"], columns["patients"], facts)


def saved_splits(run_dir: Path) -> list[str]:
    """The splits in a run's `predictions.npz`; none without that file."""
    path = run_dir / PREDICTIONS
    if not path.is_file():
        return []
    with _opened(path) as file:  # reads the directory alone
        return [split for split in get_args(Split) if f"{split}_logits" in file.files]


def load_predictions(run_dir: Path, split: Split) -> Predictions:
    """One split of a run's `predictions.npz`. Raises InputError if the file is missing or damaged."""
    path = run_dir / PREDICTIONS
    if not path.is_file():
        raise InputError(f"{run_dir} has no {PREDICTIONS}: the run kept none, or is not finished")
    with _opened(path) as file:
        try:
            keys = tuple(file[f"{split}_keys"].tolist())
            start = f"{split}_fact_"
            found = Predictions(
                classes=tuple(file["classes"].tolist()),
                keys=keys,
                logits=file[f"{split}_logits"],
                labels=file[f"{split}_labels"],
                # Runs of earlier versions did not say.
                patients=_optional(file, f"{split}_patients", len(keys)),
                facts={name.removeprefix(start): file[name].tolist() for name in file.files if name.startswith(start)},
            )
            _require_fitting(found)
            return found
        except Exception as error:  # of a damaged archive the readers raise whatever they stumble over
            raise InputError(f"{path} has no {split} split that is whole ({error})") from error


def _require_fitting(found: Predictions) -> None:
    """Raise ValueError unless there is one of each for each image."""
    count, classes = len(found.keys), len(found.classes)
    if found.logits.shape != (count, classes) or found.logits.dtype.kind != "f":
        raise ValueError(f"logits {found.logits.shape} of {count} images and {classes} classes")
    lengths = {len(found.labels), len(found.patients), *(len(values) for values in found.facts.values())}
    if lengths != {count} or found.labels.dtype.kind not in "if":
        raise ValueError(f"labels, patients or facts are not those of {count} images")


def align(other: Predictions, keys: Sequence[str], name: str) -> Predictions:
    """The same images in the order of `keys`. Raises InputError if the images differ."""
    place = {key: row for row, key in enumerate(other.keys)}
    missing = [key for key in keys if key not in place]
    if missing or len(place) != len(keys):
        raise InputError(
            f"{name} was not tested on the same images: {len(missing)} of {len(keys)} are not among its "
            f"{len(place)}; a paired difference needs the same test set"
        )
    return other.take(np.array([place[key] for key in keys], dtype=np.int64))


def concat_predictions(parts: Iterable[Predictions]) -> Predictions:
    """The images of several splits, concatenated; patients of different splits count as different."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    patients, first = [], 0
    for part in parts:
        patients.append(np.where(part.patients < 0, -1, part.patients + first))
        first += int(part.patients.max(initial=-1)) + 1
    names = dict.fromkeys(name for part in parts for name in part.facts)
    return Predictions(
        classes=parts[0].classes,
        keys=tuple(key for part in parts for key in part.keys),
        logits=np.concatenate([part.logits for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        patients=np.concatenate(patients),
        facts={name: [value for part in parts for value in part.facts.get(name, [""] * len(part))] for name in names},
    )


def _opened(path: Path) -> Any:
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, NpzFile):  # without its first bytes it passes for its first array
            raise ValueError("a single array")
        return opened
    except Exception as error:  # see `load_predictions`
        raise InputError(f"{path} cannot be read ({error}); run the same training command again to write it") from error


def _optional(file: Any, name: str, count: int) -> Ints:
    return np.asarray(file[name] if name in file.files else np.full(count, -1), dtype=np.int64)
