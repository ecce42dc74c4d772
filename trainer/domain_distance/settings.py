"""The flags of proximity. Without PyTorch, which their help does not need."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_pipelines.common.errors import InputError
from data_pipelines.datasets.catalog import find
from trainer.config import Precision
from trainer.models.sources import SCRATCH, locate

RANDOM = "random"
FEWEST_IMAGES = 20


@dataclass(frozen=True)
class Proximity:
    """How far each target lies from each source."""

    sources: tuple[str, ...]
    """Run folders or weights, whose images are those that they were trained on; or prepared data sets, of which only
    the images are compared."""
    targets: tuple[str, ...]
    """Prepared data sets; their training images are used."""
    network: str
    """Run folder or weights whose features all sets are compared in; "random" takes random weights."""
    out: Path = Path("proximity")
    """Folder to write: proximity.json, a page, figures."""
    force: bool = False
    """Replace an earlier result."""
    classes: tuple[str, ...] = ()
    """Only images of these classes of the targets; none: all."""
    images: int = 5000
    """Most images of each set, drawn by the seed."""
    model: str | None = None
    """Model of random weights; None: that of the network, or of the first source that has one."""
    image_size: int | None = None
    """Side of the square that the common network sees, pixels; None: as it was trained, or else 224."""
    own: bool = True
    """Also compare in each source's own features, with its labels; --no-own does not."""
    control: bool = True
    """Also compare in the features of random weights; --no-control does not."""
    cache: bool = True
    """Keep features in ~/.cache/bitscale, or $XDG_CACHE_HOME/bitscale, and use those that are there."""
    seed: int = 0
    """Of the draw of images, the random weights, and the parts that intervals come from."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "fp32"
    eval_batch_size: int = 256
    """Images in one forward pass."""
    threads: int | None = None
    """CPU threads; None: all cores this process may use."""

    def __post_init__(self) -> None:
        for name in ("sources", "targets"):
            if not getattr(self, name):
                raise InputError(f"--{name} names none")
            twice = sorted({each for each in getattr(self, name) if getattr(self, name).count(each) > 1})
            if twice:
                raise InputError(f"--{name} names {', '.join(twice)} twice; name each once")
        if self.images < FEWEST_IMAGES:
            raise InputError(f"--images is {self.images}; fewer than {FEWEST_IMAGES} tell nothing of a set")
        if self.eval_batch_size < 1 or self.seed < 0:
            raise InputError("--eval-batch-size must be at least 1, --seed must not be negative")
        if self.image_size is not None and not 1 <= self.image_size <= 4096:
            raise InputError(f"--image-size is {self.image_size}; it must lie in 1 to 4096")

    @property
    def trained_sources(self) -> list[str]:
        """The sources less random weights, which have seen no images."""
        return [name for name in self.sources if name not in (SCRATCH, RANDOM)]

    def require_found(self) -> None:
        """Raises InputError for a source, target or network that does not exist, before PyTorch is loaded for it."""
        for name in self.trained_sources:
            set_behind(name)
        for name in self.targets:
            find(name, is_listed=True)
        if self.network != RANDOM:
            locate(self.network)


def set_behind(source: str) -> Path | None:
    """The prepared set that a source names; None for weights. Raises InputError for neither."""
    try:
        return find(source)
    except InputError as no_set:
        try:
            locate(source)
        except InputError as no_weights:
            raise InputError(f"{source} is neither weights nor a prepared set. {no_weights}. {no_set}") from no_weights
    return None
