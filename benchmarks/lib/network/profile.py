"""Hardware profiles: a machine's figures, each with its source and its uncertainty."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.lib.network.model import Machine
from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parents[2] / "hardware"
_NUMBERS = tuple(field.name for field in fields(Machine))
_OF_A_RANK = ("tflops", "update_gb_s", "kernel_us")


@dataclass(frozen=True)
class Workload:
    """What a rank trains: a model on batches of `images` images."""

    model: str
    num_classes: int
    image_size: int
    images: int


@dataclass(frozen=True)
class Published:
    """Efficiencies in percent that somebody measured on a machine, those above `calibrate_up_to` kept back for tests;
    `error` is how far a single run may lie from its mean, in points."""

    ranks: tuple[int, ...]
    efficiency: tuple[float, ...]
    calibrate_up_to: int
    error: float
    engine: str
    model: str
    num_classes: int
    image_size: int
    images_per_rank: int
    source: str
    note: str
    """What else must be known of the points."""

    @property
    def workload(self) -> Workload:
        """What each rank trained."""
        return Workload(self.model, self.num_classes, self.image_size, self.images_per_rank)

    def points(self, held_out: bool) -> list[tuple[int, float]]:
        """(ranks, percent) to calibrate on, or those held out. One rank, 100 % by definition, is neither."""
        pairs = zip(self.ranks, self.efficiency, strict=True)
        return [pair for pair in pairs if pair[0] > 1 and (pair[0] > self.calibrate_up_to) == held_out]


@dataclass(frozen=True)
class Profile:
    """A machine, what its ranks compute, the standard error of each number as a share of it, and its source.

    `tflops` is the rate that a training step reaches, `update_gb_s` that of the optimiser's memory traffic, `kernel_us`
    the least time of a layer. `nodes` is how many nodes the machine has.
    """

    name: str
    title: str
    nodes: int
    machine: Machine
    tflops: float
    update_gb_s: float
    kernel_us: float
    errors: dict[str, float]
    sources: dict[str, str]
    published: Published | None

    @property
    def most_ranks(self) -> int:
        """Ranks that the whole machine has room for."""
        return self.nodes * self.machine.ranks_per_node


def profile_names() -> list[str]:
    """The profiles that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_profile(name: str) -> Profile:
    """A profile by name, or from a TOML file. Raises InputError for an unknown name, and for a file that lacks a number
    or says no source for one."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise InputError(f"no hardware profile {name!r}{nearest(name, profile_names())}; or name a .toml file")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no TOML file: {error}") from error
    values: dict[str, float] = {}
    for number in (*_NUMBERS, *_OF_A_RANK, "nodes"):
        entry = content.get(number)
        if not isinstance(entry, dict) or not {"value", "error", "source"} <= entry.keys():
            raise InputError(f"{path}: {number} must be {{ value = ..., error = ..., source = ... }}")
        values[number] = entry["value"]
    numbers = {number: content[number] for number in values}
    machine: dict[str, Any] = {number: values[number] for number in _NUMBERS}
    return Profile(
        name=path.stem,
        title=content.get("title", path.stem),
        nodes=int(values["nodes"]),
        machine=Machine(**machine),
        **{number: values[number] for number in _OF_A_RANK},
        errors={number: entry["error"] for number, entry in numbers.items()},
        sources={number: entry["source"] for number, entry in numbers.items()},
        published=_published(content.get("published")),
    )


def _published(content: dict[str, Any] | None) -> Published | None:
    if content is None:
        return None
    pairs = {name: tuple(content[name]) for name in ("ranks", "efficiency")}
    return Published(**{**content, **pairs})
