"""Prepared sets of a few tiny pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.common.raw_set import RawImage, RawSet
from data_pipelines.common.splits import Split
from data_pipelines.image_files.png import encode_png
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare


def tiny_set(
    folder: Path,
    labels: Sequence[Any],
    classes: Sequence[str],
    name: str = "tiny",
    pictures: Sequence[int] | None = None,
    splits: Sequence[Split] = ("train",),
    side: int = 8,
    **options: Any,
) -> Path:
    """A prepared set that has one image for each label in each split; equal numbers in `pictures` are equal images."""
    images = []
    for split in splits:
        for i, label in enumerate(labels):
            pixels = np.random.default_rng(pictures[i] if pictures else i).integers(
                256, size=(side, side), dtype=np.uint8
            )
            known = label if np.ndim(label) == 0 else np.array(label, dtype=np.float32)
            images.append(RawImage(f"{split}-{i:03d}", split, encode_png(pixels), known))
    raw = RawSet(
        name=name,
        task="single_label" if np.ndim(labels) == 1 else "multi_label",
        classes=tuple(classes),
        images=images,
        num_images=len(images),
        source="drawn by a test",
        **options,
    )
    prepare(raw, Output(folder))
    return folder
