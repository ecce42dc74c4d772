"""Sets of phantoms that label some of the findings, each in its own way."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from data_pipelines.common.raw_set import RawImage, RawSet
from data_pipelines.common.splits import Split
from data_pipelines.datasets.phantom import FINDINGS, finding_extent, phantom
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare


@dataclass(frozen=True)
class Labelling:
    """How one hospital labels. findings: its names, and the phantoms' for them. least_extent: of those of its names
    that it gives from some extent on only. is_target: half of its patients are tested, as few are trained on; of other
    sets all that is not trained on is, val too."""

    name: str
    findings: Mapping[str, str]
    least_extent: Mapping[str, float] = field(default_factory=dict)
    is_target: bool = False


# Two findings that all label alike, one of its own for each, and one, an effusion, that the first labels, the second
# labels under the same name when it is large, and the third under another name.
SHARED = ("Cardiomegaly", "Consolidation")
DISPUTED = {"north": "Effusion", "south": "Effusion", "east": "Pleural fluid"}
SOURCES = (
    Labelling("north", {name: name for name in (*SHARED, "Pneumothorax", "Effusion")}),
    Labelling("south", {name: name for name in (*SHARED, "Atelectasis", "Effusion")}, {"Effusion": 0.5}),
    Labelling("east", {name: name for name in (*SHARED, "Nodule")} | {"Pleural fluid": "Effusion"}),
)
FOURTH = Labelling("west", {name: name for name in FINDINGS}, is_target=True)


@dataclass(frozen=True)
class _Labelled:
    """The images of a set of phantoms, labelled anew on every pass."""

    raw: RawSet
    labelling: Labelling
    seed: int

    def __len__(self) -> int:
        return self.raw.num_images or 0

    def __iter__(self) -> Iterator[RawImage]:
        columns = [list(FINDINGS).index(name) for name in self.labelling.findings.values()]
        for number, image in enumerate(self.raw.images):
            label = np.asarray(image.label, dtype=np.float32)[columns]
            for name, least in self.labelling.least_extent.items():
                column = list(self.labelling.findings).index(name)
                if label[column] == 1 and finding_extent(self.seed, number, self.labelling.findings[name]) < least:
                    label[column] = 0
            yield replace(image, label=label, split=self._split_of(image))

    def _split_of(self, image: RawImage) -> Split:
        if not self.labelling.is_target:
            return "train" if image.split == "train" else "test"
        return "test" if image.split == "train" and image.group % 2 else image.split


def write_set(labelling: Labelling, folder: Path, images: int, size: int, seed: int) -> Path:
    """Prepare a set of phantoms as one hospital labels them, unless it is there."""
    if not folder.exists():
        raw = phantom(images=images, size=size, seed=seed)
        labelled = _Labelled(raw, labelling, seed)
        prepare(replace(raw, name=labelling.name, classes=tuple(labelling.findings), images=labelled), Output(folder))
    return folder
