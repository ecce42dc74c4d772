"""Claims as data: a TOML file of hypotheses on cells of results."""

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Direction = Literal["higher", "lower", "equal", "inconsistent"]
Statistic = Literal["mean", "spread"]
SourceSize = Literal["smallest", "largest"]
Names = tuple[str, ...]
_PAPER = "paper_claims.toml"
_MOST = 1e15  # images of a source, or points
_LISTS = ("source", "model", "target", "shots", "protocol", "mode")
_CHOICES = {"direction": Direction, "statistic": Statistic, "source_size": SourceSize}
_CELL_KEYS = ("source", "target", "shots")  # which both sides of a claim need; without a model: each that was run


@dataclass(frozen=True)
class Cells:
    """A choice of cells: each field lists what it may be, or is empty. source_size: the source of those listed that was
    pre-trained on the fewest or most images."""

    source: Names = ()
    source_size: SourceSize | None = None
    model: Names = ()
    target: Names = ()
    shots: Names = ()


@dataclass(frozen=True)
class Where(Cells):
    """What both sides of a claim have in common. protocol, mode: the kinds of runs that it is about; empty for all."""

    protocol: Names = ()
    mode: Names = ()


@dataclass(frozen=True)
class Claim:
    """`first` against `second`, averaged over the combinations in `cells`. label: a short name for figures.
    margin: points within which a difference counts as none. paired: by seed, None for where seeds share images.
    statistic: of a cell."""

    id: str
    text: str
    cells: Where
    first: Cells
    second: Cells
    direction: Direction
    label: str = ""
    place: str = ""
    group: str = ""
    margin: float | None = None
    statistic: Statistic = "mean"
    paired: bool | None = None


@dataclass(frozen=True)
class Summary:
    """Cells that one mixed model is fitted to; sources and models from the smallest to the largest."""

    title: str
    source: Names
    model: Names
    target: Names
    shots: Names


@dataclass(frozen=True)
class ClaimFile:
    """Claims that are corrected together. title: whose they are. source_images: images that a source was pre-trained
    on, for `source_size`."""

    title: str
    claim: tuple[Claim, ...]
    summary: tuple[Summary, ...] = ()
    source_images: dict[str, float] = field(default_factory=dict)

    def renamed(self, source: Callable[[str], str], target: Callable[[str], str]) -> "ClaimFile":
        """The same claims with sources and targets called as the results call them."""

        def renamed(cells: Any) -> Any:
            return replace(cells, source=tuple(map(source, cells.source)), target=tuple(map(target, cells.target)))

        claims = tuple(
            replace(c, cells=renamed(c.cells), first=renamed(c.first), second=renamed(c.second)) for c in self.claim
        )
        images = {source(name): number for name, number in self.source_images.items()}
        return replace(self, claim=claims, summary=tuple(map(renamed, self.summary)), source_images=images)


def paper_claims() -> ClaimFile:
    """The claims of the paper, which ship with the package."""
    return _parsed((resources.files(__package__) / _PAPER).read_text(encoding="utf-8"), "the paper's claims")


def read_claims(path: Path) -> ClaimFile:
    """The claims of a file. Raises InputError with the file, the claim and the field."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(f"the claims {path} cannot be read: {reason}; name a TOML file of claims") from error
    return _parsed(text, str(path))


def _parsed(text: str, where: str) -> ClaimFile:
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid TOML: {error}") from error
    _require_known(content, ClaimFile, where)
    for name in ("claim", "summary"):
        tables = content.get(name, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise InputError(f"{where}: {name} must be written as [[{name}]], once for each")
    claims = tuple(_claim(table, f"{where}, claim {place}") for place, table in enumerate(content.get("claim", []), 1))
    if not claims:
        raise InputError(f"{where} holds no claim; each begins with [[claim]]")
    ids = [claim.id for claim in claims]
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{where}: two claims have the id {twice!r}; give each its own")
    summaries = [
        _summary(table, f"{where}, summary {place}") for place, table in enumerate(content.get("summary", []), 1)
    ]
    images = content.get("source_images", {})
    if not isinstance(images, dict) or not all(map(_is_positive, images.values())):
        raise InputError(f"{where}: source_images must be a section of numbers, such as imagenet1k = 1281167")
    file = ClaimFile(str(content.get("title", where)), claims, tuple(summaries), dict(images))
    for claim in claims:
        _require_sizes(claim, file, where)
    return file


def _claim(table: dict[str, Any], where: str) -> Claim:
    where = f"{where} ({table['id']})" if isinstance(table.get("id"), str) else where
    _require_known(table, Claim, where)
    _require_fields(table, ("id", "text", "cells", "first", "second", "direction"), where)
    for name in ("id", "text", "label", "place", "group"):
        if name in table and not (isinstance(table[name], str) and table[name]):
            raise InputError(f"{where}: {name} must be a text in quotes")
    margin = table.get("margin")
    if margin is not None and not _is_positive(margin):
        raise InputError(f"{where}: margin is {margin!r}; it must be a number of points above 0")
    if not isinstance(table.get("paired", True), bool):
        raise InputError(f"{where}: paired must be true or false")
    values = {name: _choice(name, table[name], where) for name in ("direction", "statistic") if name in table}
    cells: dict[str, Any] = {"cells": _cells(table["cells"], Where, f"{where}, cells")}
    cells |= {side: _cells(table[side], Cells, f"{where}, {side}") for side in ("first", "second")}
    claim = Claim(**(table | values | cells))
    _require_contrast(claim, where)
    return claim


def _cells(table: Any, kind: type, where: str) -> Any:
    if not isinstance(table, dict):
        raise InputError(f'{where} must be a table, such as {{ source = "imagenet1k" }}')
    _require_known(table, kind, where)
    values = {name: _names(value, f"{where}: {name}") for name, value in table.items() if name in _LISTS}
    if "source_size" in table:
        values["source_size"] = _choice("source_size", table["source_size"], where)
    return kind(**values)


def _summary(table: dict[str, Any], where: str) -> Summary:
    _require_known(table, Summary, where)
    _require_fields(table, tuple(each.name for each in fields(Summary)), where)
    lists = {name: _names(value, f"{where}: {name}") for name, value in table.items() if name != "title"}
    return Summary(title=str(table["title"]), **lists)


def _require_contrast(claim: Claim, where: str) -> None:
    """Raise InputError unless both sides say which cells they are, once, and differ."""
    for name, side in (("first", claim.first), ("second", claim.second)):
        for key in ("model", "target", "shots", "source_size", "source"):
            if getattr(side, key) and getattr(claim.cells, key):
                raise InputError(f"{where}: {key} is in cells and in {name}; leave out one of them")
        for key in _CELL_KEYS:
            if not getattr(side, key) and not getattr(claim.cells, key):
                raise InputError(f"{where}: neither cells nor {name} says a {key}; name some")
    if claim.cells.source and bool(claim.first.source_size) != bool(claim.second.source_size):
        raise InputError(f"{where}: with the sources in cells, first and second both need a source_size")
    if claim.first == claim.second:
        raise InputError(f"{where}: first and second are the same cells; they must differ in one field")
    if claim.direction == "equal" and (claim.margin is None or claim.statistic != "mean"):
        raise InputError(
            f'{where}: direction "equal" is for means, and needs a margin: the points within which they count as equal'
        )
    if claim.statistic == "spread" and (claim.margin or claim.direction == "inconsistent"):
        raise InputError(f'{where}: of a spread, only direction "higher" or "lower" is tested, without a margin')


def _require_sizes(claim: Claim, file: ClaimFile, where: str) -> None:
    """Raise InputError if a claim chooses by the size of sources whose sizes are not given."""
    sided = any(side.source_size for side in (claim.cells, claim.first, claim.second))
    for source in (*claim.cells.source, *claim.first.source, *claim.second.source) if sided else ():
        if source not in file.source_images:
            raise InputError(
                f"{where} ({claim.id}): source_size needs the images of {source!r}; add {source} = NUMBER below "
                "[source_images]"
            )


def _require_known(table: dict[str, Any], kind: type, where: str) -> None:
    known = [each.name for each in fields(kind)]
    for name in table:
        if name not in known:
            raise InputError(f"{where}: unknown field {name!r}{nearest(name, known)}")


def _require_fields(table: dict[str, Any], needed: Collection[str], where: str) -> None:
    missing = [name for name in needed if name not in table]
    if missing:
        raise InputError(f"{where}: it lacks {', '.join(missing)}")


def _choice(name: str, value: Any, where: str) -> Any:
    if value not in get_args(_CHOICES[name]):
        raise InputError(f"{where}: {name} is {value!r}{nearest(str(value), get_args(_CHOICES[name]))}")
    return value


def _names(value: Any, where: str) -> Names:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, (str, int)) and not isinstance(one, bool) for one in values):
        raise InputError(f"{where} is {value!r}; it must be a name, or a list of names")
    return tuple(dict.fromkeys(map(str, values)))


def _is_positive(value: Any) -> bool:
    """Whether a value is a number above 0, and not an endless one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _MOST
