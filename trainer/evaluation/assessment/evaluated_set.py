"""The test set of an evaluation: the run's own test split, or another set with labels matched by name."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import MANIFEST, content_digest, read_manifest, splits_of
from data_pipelines.common.message_parts import number, some_of
from data_pipelines.common.splits import Split
from data_pipelines.datasets.catalog import find
from data_pipelines.shards.columns import Array
from data_pipelines.shards.concat import concat
from data_pipelines.shards.index import Index
from trainer.evaluation.assessment.evaluate_settings import AnySplit
from trainer.evaluation.leaks import chosen_on, how_trained_on, leaks
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.runs import Run, own_data
from trainer.evaluation.statistics.predictions import Predictions, concat_predictions, load_predictions, of_index
from trainer.run_files import PREDICTIONS

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_FEW_IMAGES = 30  # of a split, below which the whole set is advised
SPLIT_RULE = "Split rule:"  # begins what is said of a run's own data
_ABOUT_PATIENTS = {
    "none": "Each image counts by itself: no groups of images are known.",
    "apart": "No patient is in two splits of it: they were parted by patient.",
    "may leak": "PATIENTS MAY LEAK: some patients are in two splits, or it is not known whose images some are, or "
    "whether two names are one patient. What is measured on test may be too good.",
}


@dataclass(frozen=True, eq=False)
class EvaluatedSet:
    """name: of the data. own: the run's own sets. provenance: a line each on what the data are. digests: what
    identifies these sets, by name; {} where it is not known. is_namesake: the run was trained on another set of that
    name. of_patients: the images are of patients, known or not. is_synthetic: all were generated. warnings: what must
    not be missed. index: of the images in the order of the predictions; None where they are not at hand, and `no_index`
    says why. unlike: number of images that are unlike the training images; None where that was not looked at."""

    name: str
    split: AnySplit
    own: bool
    predictions: Predictions
    provenance: list[str]
    digests: dict[str, str]
    is_namesake: bool = False
    of_patients: bool = True
    is_synthetic: bool = False
    warnings: list[str] = field(default_factory=list)
    index: Index | None = None
    no_index: str = ""
    unlike: int | None = None


def test_own(run: Run, split: AnySplit) -> EvaluatedSet:
    """The run's saved predictions for its own val or test split. Raises InputError where there are none."""
    if split not in ("val", "test"):
        raise InputError(f"a run keeps predictions for val and test, not for {split}; name the set with --data")
    if split == "val" and run.trained_on == "train+val":
        raise _trained_on_val(run)
    chosen: Split = "val" if split == "val" else "test"
    state = run.unfinished()
    if state is not None and not (run.folder / PREDICTIONS).is_file():
        raise InputError(f"{run.folder}: the run is not finished ({state.progress}){state.remedy}")
    predictions = load_predictions(run.folder, chosen)
    index, folders, no_index = _own_index(run, chosen, predictions)
    digests = run.set_digests()
    if run.head is not None:
        predictions = predictions.of_head(run.head)
        index = None if index is None else index.of_head(run.head)
        folders = folders[run.heads.index(run.head) :][:1]
        digests = {name: digest for name, digest in digests.items() if name == run.head.name}
    patients = run.result.get("patients", "none")
    warnings = [_ABOUT_PATIENTS[patients]] if patients == "may leak" else []
    if split == "val":
        warnings.append("This is val: the checkpoint, the thresholds and the temperature were chosen on it.")
    lines = [*_of_the_head(run), f"{SPLIT_RULE} {_ABOUT_PATIENTS.get(patients, 'unknown')}"]
    lines += [line for folder in folders for line in _of_manifest(folder)]
    lines += [] if folders else [f"{name}: content {digest}; it is not at hand" for name, digest in digests.items()]
    names = sorted(set(index.origins)) if index else run.metadata.get("sets") or sorted(digests)
    names = [run.head.name] if run.head else names
    name = ", ".join(names) or str(run.result.get("target_set") or "unknown")
    manifests = [read_manifest(folder) for folder in folders]
    return EvaluatedSet(
        name=name,
        split=split,
        own=True,
        predictions=predictions,
        provenance=lines,
        digests=digests,
        of_patients=_is_of_patients(run.result.get("patients"), predictions, run),
        is_synthetic=bool(manifests) and all(manifest.get("synthetic") for manifest in manifests),
        warnings=warnings,
        index=index,
        no_index=no_index,
    )


def _of_the_head(run: Run) -> list[str]:
    if run.head is None:
        return []
    return [f"Head: {run.head.name}, one of {len(run.heads)} ({', '.join(head.name for head in run.heads)})."]


def _own_index(run: Run, split: Split, predictions: Predictions) -> tuple[Index | None, list[Path], str]:
    """The images of the run's own split and the folders of its sets; without the images, why they are not at hand."""
    folders: list[Path] = []
    try:
        index, folders = own_data(run, split)
        return _require_same(index, predictions), folders, ""
    except InputError as error:
        return None, folders, str(error)


def _is_of_patients(patients: str | None, predictions: Predictions, run: Run) -> bool:
    if patients is None:  # of an earlier version
        return bool(run.metadata.get("xray_size")) or bool((predictions.patients >= 0).any())
    return patients != "none"


def _trained_on_val(run: Run) -> InputError:
    return InputError(f"{run.folder} was trained on train and val, so it cannot be tested on val; take --split test")


def _require_same(index: Index, predictions: Predictions) -> Index:
    if len(index) != len(predictions) or tuple(index.keys([0, len(index) - 1])) != (
        predictions.keys[0],
        predictions.keys[-1],
    ):
        raise InputError("the data set was prepared again since the run was tested")
    return index


def _few_of_an_unseen_set(run: Run, manifest: Mapping[str, Any], split: AnySplit, count: int) -> list[str]:
    """Message for a small part of a set that the run may be tested on as a whole."""
    in_all = sum(each["images"] for each in manifest["splits"].values())
    if split == "all" or not count < _FEW_IMAGES <= in_all or how_trained_on(run, manifest) not in ("no", "namesake"):
        return []
    return [
        f"{split} of {manifest['name']} has {number(count, 'image')} of {in_all:,}; none of its splits was trained on, "
        "so --split all may be taken"
    ]


def test_elsewhere(run: Run, data: str, split: AnySplit, predictor: Predictor) -> EvaluatedSet:
    """Predict another prepared set. Raises InputError for one without the split or without a label in common."""
    folder = find(data)
    manifest = read_manifest(folder)
    having = splits_of(manifest)
    chosen: Sequence[Split] = [name for name in _SPLITS if name in having] if split == "all" else [split]
    if missing := [name for name in chosen if name not in having]:
        raise InputError(
            f"{folder} has no {missing[0]} split (it has: {', '.join(having)}); take --split {having[-1]}, or all"
        )
    parts = [Index.load(folder, name) for name in chosen]
    if parts[0].task != predictor.task:
        raise InputError(
            f"{folder} is a {parts[0].task} set and the run is {predictor.task}: their labels cannot be compared"
        )
    is_val = split == "val" and run.trained_on == "train+val"
    if is_val and how_trained_on(run, manifest, with_sources=False) in ("content", "name"):
        raise _trained_on_val(run)
    indexes, warnings = [], _mismatches(run, predictor, parts[0])
    for part in parts:
        aligned, remarks = align_labels(part, predictor.classes)
        indexes.append(aligned)
        warnings += [remark for remark in remarks if remark not in warnings]
    warnings += leaks(run, manifest, list(chosen), indexes)
    warnings += _few_of_an_unseen_set(run, manifest, split, len(indexes[0]))
    of_val = chosen_on(run, manifest, list(chosen), indexes)
    judged = [predictor.judge(index) for index in indexes]
    predictions = concat_predictions(
        [of_index(index, logits) for index, (logits, _) in zip(indexes, judged, strict=True)]
    )
    nothing_chosen = "" if of_val else ", which the run did not choose anything on"
    provenance = [*_of_the_head(run), f"Split: {split} of {folder.name}{nothing_chosen}.", *_of_manifest(folder)]
    return EvaluatedSet(
        name=manifest["name"],
        split=split,
        own=False,
        predictions=predictions,
        provenance=provenance,
        digests={manifest["name"]: content_digest(manifest)},
        is_namesake=how_trained_on(run, manifest) == "namesake",
        of_patients=_is_of_patients(manifest.get("patients"), predictions, run),
        is_synthetic=bool(manifest.get("synthetic")),
        warnings=warnings + of_val,
        unlike=_num_unlike([novelty for _, novelty in judged]),
        index=concat(indexes),
    )


def _num_unlike(novelties: Sequence[Array | None]) -> int | None:
    """How many images have a novelty, float32 [N, 3], above 1."""
    found = [int((novelty.max(axis=1) > 1).sum()) for novelty in novelties if novelty is not None]
    return sum(found) if found else None


def align_labels(index: Index, classes: Sequence[str]) -> tuple[Index, list[str]]:
    """The samples with the labels that the run knows, in its order, and what must be said of those missing here or
    there.

    Findings that the set does not have are unlabelled; images of a class that the run does not know are left out.
    Raises InputError for no name in common.
    """
    common = [name for name in classes if name in index.classes]
    missing = [name for name in classes if name not in index.classes]
    extra = [name for name in index.classes if name not in classes]
    if not common:
        raise InputError(
            f"the set has none of the run's labels ({some_of(list(classes))}); it has: {some_of(index.classes)}. "
            "Labels are matched by name: prepare it with the same names"
        )
    remarks = []
    if missing:
        remarks.append(f"The set does not have these, so nothing is said of them: {_with_hints(missing, extra)}.")
    if extra:
        fate = "left out" if index.task == "multi_label" else "their images are left out"
        remarks.append(f"The run does not know these, {fate}: {some_of(extra)}.")
    if index.task == "multi_label":
        labels = np.full((len(index), len(classes)), np.nan, dtype=np.float32)
        for name in common:
            labels[:, classes.index(name)] = index.labels[:, index.classes.index(name)]
        return _with_labels(index, classes, labels), remarks
    rows = np.flatnonzero(np.isin(index.labels, [index.classes.index(name) for name in common]))
    if len(rows) < len(index):
        remarks.append(f"{len(index) - len(rows):,} of {len(index):,} images are of such a class.")
    renumber = np.full(len(index.classes), -1)
    for name in common:
        renumber[index.classes.index(name)] = classes.index(name)
    taken = index.take(rows)
    return _with_labels(taken, classes, renumber[taken.labels]), remarks


def _with_labels(index: Index, classes: Sequence[str], labels: np.ndarray) -> Index:
    return replace(index, classes=tuple(classes), labels=labels)


def _with_hints(missing: Sequence[str], extra: Sequence[str]) -> str:
    folded = {name.casefold(): name for name in extra}
    words = []
    for name in missing:
        close = get_close_matches(name.casefold(), list(folded), n=1)
        words.append(f"{name} (is it {folded[close[0]]!r}?)" if close else name)
    return some_of(words)


def _mismatches(run: Run, predictor: Predictor, index: Index) -> list[str]:
    """How the stored images differ from those that the run was trained on."""
    found = []
    if index.channels != predictor.channels:
        kinds = {1: "grey", 3: "colour"}
        found.append(
            f"The images are {kinds[index.channels]}, the run was trained on {kinds[predictor.channels]} ones."
        )
    if predictor.xray_size and predictor.xray_size != index.xray_side:
        stored = (
            f"X-rays of {index.xray_side} pixels" if index.xray_side else "images that are not shrunk as X-rays are"
        )
        found.append(
            f"The set stores {stored}, the run was trained on X-rays of {predictor.xray_size}: prepare it with "
            f"--size {predictor.xray_size} (your own sets: --xray-size)."
        )
    if predictor.xray_size and index.xray_side and predictor.xray_cut != index.xray_cut:
        what = "whole X-rays" if predictor.xray_cut == "whole" else "central squares of X-rays"
        found.append(
            f"The set does not store {what}, which the run was trained on. bitscale predict, given the original files, "
            "prepares them as the run's own."
        )
    return found


def _of_manifest(folder: Path) -> list[str]:
    manifest = read_manifest(folder)
    content = (folder / MANIFEST).read_bytes()
    lines = [
        f"{manifest['name']}: {manifest.get('source', 'source not stated')}; manifest SHA-256 "
        f"{hashlib.sha256(content).hexdigest()[:16]}; content {content_digest(manifest)}; images: "
        + ", ".join(f"{name} {split['images']:,}" for name, split in manifest["splits"].items())
        + f"; {manifest.get('quarantined', 0)} quarantined."
    ]
    if manifest.get("synthetic"):
        lines.append(f"{manifest['name']} is synthetic: its images were generated.")
    patients = manifest.get("patients", "none")
    if patients != "none":
        lines.append(f"Patients of {manifest['name']}: {_ABOUT_PATIENTS[patients]}")
    return lines + [f"Note on {manifest['name']}: {note}" for note in manifest.get("notes", ())]
