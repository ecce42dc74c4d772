"""The sources and targets that are compared: their names in reports, and their images."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_pipelines.common.errors import InputError
from data_pipelines.datasets.catalog import find
from data_pipelines.shards.index import Index
from trainer.config import DataConfig
from trainer.domain_distance.settings import FEWEST_IMAGES, Proximity, set_behind
from trainer.domain_distance.two_samples import Ints, drawn_order
from trainer.evaluation.runs import open_run, own_data
from trainer.finetuning.finetune import source_name, target_name
from trainer.models.weights import Weights, describe_weights
from trainer.run_files import CHECKPOINTS, CONFIG
from trainer.splits import open_split


@dataclass(frozen=True, eq=False)
class ComparedSet:
    """name: in reports. index: the images that were drawn. whole: how many there are. weights: of a source, its run or
    file; None for images alone. digest, model: of these weights."""

    name: str
    index: Index
    whole: int
    weights: str | None = None
    digest: str = ""
    model: str = ""


def open_sources(settings: Proximity) -> list[ComparedSet]:
    """The sources, without "scratch", which has seen no images. Raises InputError for one that is neither weights nor a
    prepared set, whose images are unknown, or that is named twice."""
    if not settings.trained_sources:
        raise InputError("--sources names no set and no weights: random weights have seen no images")
    sources = [_open_source(name, settings) for name in settings.trained_sources]
    _require_distinct(sources, "sources")
    return sources


def open_targets(settings: Proximity) -> list[ComparedSet]:
    """The training images of the targets. Raises InputError for a set that is not prepared, or has too few images."""
    targets = []
    for name in settings.targets:
        index = Index.load(find(name, is_listed=True), "train")
        index = index.take_classes(settings.classes) if settings.classes else index
        targets.append(_drawn(target_name(name), index, settings))
    _require_distinct(targets, "targets")
    return targets


def _open_source(name: str, settings: Proximity) -> ComparedSet:
    folder = set_behind(name)
    if folder is not None:
        return _drawn(target_name(name), Index.load(folder, "train"), settings)
    known = describe_weights(name)
    images = _drawn(source_name(name), _images_behind(name, known), settings)
    return replace(images, weights=name, digest=known.digest, model=known.model_name)


def _images_behind(source: str, weights: Weights) -> Index:
    """The images that weights were trained on: those of the run that they lie in, else of the sets that they name."""
    path, sets = weights.path, weights.sets
    if path.parent.name == CHECKPOINTS and (path.parent.parent / CONFIG).is_file():
        return own_data(open_run(path), "train")[0]
    if not sets:
        raise InputError(
            f"{source} does not say what images it was trained on; name the prepared set of these images in its place"
        )
    try:
        index = open_split(DataConfig(sets=sets), [find(name) for name in sets], "train", seed=0)
    except InputError as error:
        raise InputError(f"the images that {source} was trained on are not all here: {error}") from error
    if index is None:
        raise InputError(f"{', '.join(sets)} has no train split, so there are no images of {source}")
    return index


def _drawn(name: str, index: Index, settings: Proximity) -> ComparedSet:
    if len(index) < FEWEST_IMAGES:
        raise InputError(f"{name} has {len(index)} training images; fewer than {FEWEST_IMAGES} tell nothing of a set")
    drawn = index
    if len(index) > settings.images:
        drawn = index.take(np.sort(drawn_order(len(index), settings.seed)[: settings.images]))
    return ComparedSet(name, drawn, len(index))


def _require_distinct(sets: list[ComparedSet], flag: str) -> None:
    for place, one in enumerate(sets):
        for other in sets[:place]:
            if one.name == other.name:
                raise InputError(
                    f"two of --{flag} are called {one.name}, and a report could not tell them apart; rename one folder"
                )
            if (one.index.fingerprint, one.digest) == (other.index.fingerprint, other.digest):
                raise InputError(f"{other.name} and {one.name} of --{flag} are the same; leave one out")


def apart(one: Index, other: Index) -> tuple[Ints, Ints]:
    """Rows of both that share no image: one that both hold stays in them in turn, so that a set is compared with itself
    by its halves."""
    known = {place: row for row, place in enumerate(_places(other))}
    shared = [(row, known[place]) for row, place in enumerate(_places(one)) if place in known]
    from_one, from_other = [row for row, _ in shared[1::2]], [row for _, row in shared[::2]]
    return np.delete(np.arange(len(one)), from_one), np.delete(np.arange(len(other)), from_other)


def _places(index: Index) -> list[tuple[Path, int]]:
    shards = [path.resolve() for path in index.shards]
    return [(shards[shard], int(offset)) for shard, offset in zip(index.shard, index.offset, strict=True)]
