"""What the laws are fitted to: errors over training images, over images of the source, and gains over a baseline."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from trainer.reporting.names import DOMAIN_OF_TARGET, FULL, NATURAL, SCRATCH, XRAY, domain, model_order
from trainer.reporting.rows import PUBLISHED
from trainer.reporting.tables import RowKey, row_keys, row_title, sources_of

# Classes, and images to train on at full shot, of the paper's targets by its authors' splits; their result files do not
# say. COVIDx: what the paper says of the whole set. PadChest-Cl: 90% of its images.
_PAPER_TARGETS = {
    "cifar10": (10, 50_000),
    "cifar100": (100, 50_000),
    "flowers102": (102, 6_149),
    "pets": (37, 3_680),
    "covidx": (2, 16_000),
    "tuberculosis": (2, 680),
    "padchest_cl": (26, 37_386),
}
# Images of the sets as published, for sources whose pre-training is not among the results.
_SET_IMAGES = {
    "imagenet1k": 1_281_167,
    "imagenet21k": 14_197_122,
    "chexpert": 223_414,
    "mimic_cxr": 377_110,
    "nih_cxr14": 112_120,
    "padchest": 160_868,
}
_CELL = [*RowKey._fields, "model", "source", "shots"]


class Panel(NamedTuple):
    """Runs that compare: one target, mode, protocol, origin, setting and model."""

    key: RowKey
    model: str

    def of(self, runs: pd.DataFrame) -> pd.DataFrame:
        """The runs of this panel."""
        return self.key.of(runs[runs["model"] == self.model])

    def title(self, mixed: bool) -> str:
        """What tells it from other panels of its target."""
        aside = row_title(self.key, mixed, with_target=False)
        return f"{self.model}, {aside}" if aside else self.model


def panels_of(runs: pd.DataFrame) -> Iterator[Panel]:
    """The panels that have runs, in the order of tables."""
    for key in row_keys(runs):
        for model in sorted(key.of(runs)["model"].unique(), key=model_order):
            yield Panel(key, model)


def measured(runs: pd.DataFrame) -> pd.DataFrame:
    """The fine-tunings that have an error and a known number of training images, with the columns `error` and `images`,
    a number for each cell. Runs whose source has seen the target are left out."""
    shown = runs[(runs["overlap"] == "") & runs["test"].notna()]
    images = [
        _images(*row) for row in shown[["train_images", "origin", "target", "shots"]].itertuples(index=False, name=None)
    ]
    shown = shown.assign(error=1 - shown["test"], images=np.array(images, dtype=np.float64))
    shown = shown.assign(images=shown.groupby(_CELL)["images"].transform("median"))
    return shown[shown["images"] > 0]


def _images(train_images: int, origin: str, target: str, shots: str) -> float:
    if not pd.isna(train_images):
        return float(train_images)
    if origin != PUBLISHED or target not in _PAPER_TARGETS:
        return float("nan")
    classes, whole = _PAPER_TARGETS[target]
    return float(whole if shots == FULL else min(whole, int(shots) * classes))


def baseline_title(runs: pd.DataFrame) -> str:
    """The title of the source that gains are counted from: scratch, or without it the source on most targets."""
    titles = [source.title for source in sources_of(runs)]
    if SCRATCH in titles:
        return SCRATCH
    targets = runs.groupby("title")["target"].nunique()
    return max(dict.fromkeys(titles), key=lambda title: int(targets[title]))


def gain_cells(runs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The mean gain of each cell over the baseline in points, paired by seed: columns of the panel, source, title,
    source_sets, shots, images, gain, se (NaN for a single seed), seeds."""
    by = [*RowKey._fields, "model", "shots", "seed"]
    of_baseline = runs[runs["title"] == baseline].groupby(by)["test"].mean().rename("baseline")
    paired = runs[runs["title"] != baseline].join(of_baseline, on=by)
    paired = paired.assign(gain=(paired["test"] - paired["baseline"]) * 100).dropna(subset=["gain"])
    cells = paired.groupby([*_CELL, "title", "source_sets", "images"], sort=False)["gain"]
    found = cells.agg(["mean", "sem", "count"]).rename(columns={"mean": "gain", "sem": "se", "count": "seeds"})
    return found.reset_index()


def same_kind(cells: pd.DataFrame) -> pd.Series:
    """1 where source and target are both natural images or both chest X-rays, 0 where they differ, NaN where the names
    do not tell."""
    known = []
    for sets, target in cells[["source_sets", "target"]].itertuples(index=False, name=None):
        source, of_target = domain(filter(None, sets.split("+"))), DOMAIN_OF_TARGET.get(target)
        unknown = of_target is None or source not in (NATURAL, XRAY)
        known.append(float("nan") if unknown else float(source == of_target))
    return pd.Series(known, index=cells.index, dtype=float)


def source_sizes(transfers: pd.DataFrame, pretrained: pd.DataFrame) -> pd.DataFrame:
    """Each source with a known number of images: columns title, model, image_kind (sources of one kind compare) and
    source_images."""
    trained = dict(zip(pretrained["source"], pretrained["train_images"], strict=True))
    rows = []
    for row in transfers[["source", "title", "model", "source_sets"]].drop_duplicates().itertuples(index=False):
        sets = [name for name in row.source_sets.split("+") if name]
        published = [_SET_IMAGES.get(name) for name in sets]
        images = trained.get(row.source)
        if images is None or pd.isna(images):
            images = sum(filter(None, published)) if sets and all(published) else None
        kind = domain(sets) if domain(sets) in (NATURAL, XRAY) else row.source_sets
        if images and kind:
            rows.append((row.title, row.model, kind, float(images)))
    return pd.DataFrame(rows, columns=["title", "model", "image_kind", "source_images"])
