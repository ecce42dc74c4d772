"""Look at a prepared data set: bitscale inspect NAME|DIR --out page.png

Draws one page: images as training sees them, labels, sizes and splits.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split


from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import tyro

from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.cpus import num_usable_cpus
from data_pipelines.common.earlier_output import require_free
from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import read_manifest
from data_pipelines.common.message_parts import as_typed, number
from data_pipelines.common.messages import logger
from data_pipelines.common.patients import Patients
from data_pipelines.common.printable import printable, width_of
from data_pipelines.common.progress import Progress
from data_pipelines.common.splits import Split
from data_pipelines.datasets.catalog import find
from data_pipelines.inspect_page import Counts, Page, class_title, draw, rows_to_draw
from data_pipelines.loading.randaugment import Operand, Space
from data_pipelines.loading.sampler import BatchSampler
from data_pipelines.loading.views import PAPER_TRANSLATION, RESIZE_FIRST, Augmentation, Border, PolicyName
from data_pipelines.shards.index import Index

if TYPE_CHECKING:
    from data_pipelines.loading.batch import Batch

_MAX_IMAGES = 512
_NAME_COLUMNS = 26
_ONE = {"images": "image"}  # of counts that are not adjectives
_MAX_SIZE = 4096  # pixels of each image on the sheet
_NOUNS = {"single_label": ("class", "classes"), "multi_label": ("finding", "findings")}
_PATIENTS: dict[Patients, str] = {
    "none": "no patients",
    "apart": "patients apart: none is in two splits",
    "may leak": "PATIENTS MAY LEAK: one may be in two splits",
}


@dataclass(frozen=True)
class Inspect:
    """What to look at, and how its images are cut."""

    data: Annotated[str, tyro.conf.Positional]
    """Prepared data set: a folder, a name below the data root, or the name of an embedded set."""
    out: Path = Path("page.png")
    """PNG file to write."""
    force: bool = False
    """Replace a file that is there."""
    split: Split = "train"
    """Whose images, labels and sizes."""
    view: PolicyName = "random_resized_crop"
    """How images are cut."""
    size: int = 224
    """Side of the square the model sees, pixels."""
    resize: int = 256
    """Side before the crop, for the views that resize first, pixels."""
    randaugment_ops: int = 0
    """RandAugment's operations on each image; 0 for none."""
    randaugment_magnitude: int = 9
    """Their strength, 0 to 30."""
    randaugment_space: Space = "torchvision"
    """Which operations, and how strong; only the torch loader has those of ildoonet."""
    randaugment_on: Operand = "crop"
    """On the view, or on the whole picture before, which only the torch loader can."""
    translation: float = PAPER_TRANSLATION
    """Furthest shift of xray_affine, as a share of the side."""
    border: Border = "black"
    """What xray_affine shows outside the picture."""
    seed: int = 0
    """Decides which images, and how each is cut."""
    images: int = 32
    """Images on the contact sheet."""
    loader: Literal["auto", "dali", "torch"] = "auto"
    """auto: torch."""

    def __post_init__(self) -> None:
        if not 1 <= self.images <= _MAX_IMAGES:
            raise InputError(f"--images is {self.images}; it must lie in 1 to {_MAX_IMAGES}")
        if not 1 <= self.size <= _MAX_SIZE:
            raise InputError(f"--size is {self.size}; it must lie in 1 to {_MAX_SIZE}")
        if self.out.suffix.lower() not in ("", ".png"):
            raise InputError(f"--out is {self.out}, and the page is a PNG file; name it {self.out.with_suffix('.png')}")
        if self.seed < 0:
            raise InputError(f"--seed is {self.seed}; it must not be negative")
        if self.view in RESIZE_FIRST and self.resize < self.size:
            raise InputError(f"--resize is {self.resize}, below --size {self.size}; raise it to that at least")
        if self.randaugment_ops < 0 or not 0 <= self.randaugment_magnitude <= 30:
            raise InputError(
                f"--randaugment-ops is {self.randaugment_ops}, --randaugment-magnitude {self.randaugment_magnitude}; "
                "they must be at least 0 and lie in 0 to 30"
            )
        if not 0 <= self.translation < 1:
            raise InputError(f"--translation is {as_typed(self.translation)}; it must lie in [0, 1)")


def first_batch(look: Inspect, index: Index) -> tuple["Batch", str]:
    """The first images that a training run of this seed sees, by the shipped order and loader; the loader's name."""
    import torch  # here because it takes seconds and the help needs none of it

    from data_pipelines.loading.loader import pick_loader

    number_shown = min(look.images, len(index))  # more would show some twice
    order = BatchSampler(len(index), number_shown, look.seed, weights=index.weights("none"))
    augmentation = Augmentation(
        look.view,
        look.size,
        look.resize,
        look.seed,
        flip=index.flip,
        randaugment_ops=look.randaugment_ops,
        randaugment_magnitude=look.randaugment_magnitude,
        randaugment_space=look.randaugment_space,
        randaugment_on=look.randaugment_on,
        translation=look.translation,
        border=look.border,
    )
    name, loader = pick_loader(look.loader, on_gpu=False, augmentation=augmentation)
    return next(loader(index, [order.request(0)], augmentation, torch.device("cpu"), num_usable_cpus())), name


def label_counts(index: Index) -> dict[str, Counts]:
    """How many images each class has, int64 [C]: "images" for a single-label set; "positive", "negative" and
    "unlabelled" for a multi-label one, which add up to all images."""
    if index.task == "single_label":
        return {"images": np.bincount(index.labels, minlength=index.num_classes)}
    positive, negative = (index.labels == 1).sum(axis=0), (index.labels == 0).sum(axis=0)
    return {"positive": positive, "negative": negative, "unlabelled": len(index) - positive - negative}


def count_sizes(index: Index) -> tuple[Counts, Counts]:
    """The different stored sizes (height, width) in pixels, int64 [K, 2], and how many images have each, int64 [K]."""
    packed = np.asarray(index.height, dtype=np.int64) << 32 | np.asarray(index.width, dtype=np.int64)
    values, counts = np.unique(packed, return_counts=True)
    return np.stack([values >> 32, values & 0xFFFFFFFF], axis=1), counts


def caption(index: Index, label: npt.NDArray[Any]) -> str:
    """What stands under an image: its class, or its findings."""
    if index.task == "single_label":
        return index.classes[int(label)]
    if np.isnan(label).all():
        return "unlabelled"
    return ", ".join(name for name, value in zip(index.classes, label, strict=True) if value == 1) or "none positive"


def facts(manifest: dict[str, Any], index: Index, split: Split) -> list[str]:
    """The caption of the page, a line each: what the set is, whether it shows patients, in which splits they are, what
    was quarantined, where it is from."""
    what = [
        "synthetic" if manifest.get("synthetic") else "not synthetic",
        f"{index.task.replace('_', '-')}, {number(index.num_classes, *_NOUNS[index.task])}",
        "grey" if index.channels == 1 else "RGB",
        "may be mirrored" if index.flip else "must not be mirrored",
    ]
    is_confidential = index.patients != "none" and not manifest.get("synthetic")
    groups = len(np.unique(index.group[index.group >= 0]))
    patients = [_PATIENTS[index.patients]] if index.patients != "none" or not groups else []
    patients += [f"{groups:,} patients in {split}"] if groups else []
    return [
        ", ".join(what),
        *["images of patients: the page is as confidential as they are"] * is_confidential,
        ", ".join([*patients, f"{number(manifest.get('quarantined', 0), 'image')} quarantined"]),
        f"source: {manifest.get('source', 'not stated')}",
        *(f"note: {note}" for note in manifest.get("notes", ())),
    ]


def make_page(look: Inspect) -> Page:
    """Everything that is drawn. Raises InputError for a set, a split or a loader that is not there."""
    folder = find(look.data)
    manifest, index = read_manifest(folder), Index.load(folder, look.split)
    batch, loader_name = first_batch(look, index)
    cut = f"{look.resize} to " if look.view in RESIZE_FIRST else ""
    operations = f", RandAugment({look.randaugment_ops}, {look.randaugment_magnitude})" if look.randaugment_ops else ""
    sizes, size_counts = count_sizes(index)
    return Page(
        name=manifest["name"],
        facts=facts(manifest, index, look.split),
        sheet_title=f"{look.split} images as training sees them with --view {look.view}, {cut}{look.size} px"
        f"{operations}, seed {look.seed}, loader {loader_name}",
        images=batch.images.permute(0, 2, 3, 1).numpy(),
        captions=[caption(index, label) for label in batch.labels.numpy()],
        split=look.split,
        classes=index.classes,
        counts=label_counts(index),
        sizes=sizes,
        size_counts=size_counts,
        splits={name: content["images"] for name, content in manifest["splits"].items()},
    )


def summary(page: Page) -> str:
    """The page without its pictures, as text."""
    height, width = page.sizes.T
    rows, gap = rows_to_draw(next(iter(page.counts.values())))
    lines = [
        *map(printable, [page.name, *page.facts]),
        f"images: {', '.join(f'{name} {count:,}' for name, count in page.splits.items())}",
        f"{page.split}: height {height.min()} to {height.max()}, width {width.min()} to {width.max()} pixels",
    ]
    for row in rows:
        numbers = ", ".join(number(counts[row], _ONE.get(name, name), name) for name, counts in page.counts.items())
        name = class_title(page.classes[row])
        beside = " " * (_NAME_COLUMNS - width_of(name))
        lines.append(f"  {name}{beside} {numbers}" if row >= 0 else f"  ({gap:,} more between)")
    return "\n".join(lines)


@entry_point
def main() -> None:
    """Parse the command line, draw the page and print the summary."""
    look = parse(Inspect, __doc__)
    require_free(look.out, look.force)
    find(look.data)
    what = f"up to {look.images} {look.split} images at {look.size} px"
    logger.info(f"inspect {look.data}: {what} on the CPU, to {look.out}")
    with Progress(f"inspect {look.data}"):
        page = _drawn(look)
    print(f"{summary(page)}\n{look.out}")


def _drawn(look: Inspect) -> Page:
    page = make_page(look)
    try:
        look.out.parent.mkdir(parents=True, exist_ok=True)
        draw(page).savefig(look.out, format="png")
    except OSError as error:
        raise InputError(f"{look.out} cannot be written ({error}); choose another --out") from error
    return page


if __name__ == "__main__":
    main()
