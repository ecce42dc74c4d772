"""Recipes in files: a TOML file that changes settings of another recipe, or the `config.json` of a run."""

import json
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import nearest
from trainer.config import as_it_was, read_settings
from trainer.run_files import CONFIG

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SUFFIXES = (".toml", ".json")
_BASE = "base"
# What a run adds to its settings: digests of its images and of the weights that it began with.
_FOUND_BY_RUN = frozenset({"data_fingerprint", "model.pretrained_weights"})


@dataclass(frozen=True)
class Layer:
    """The settings of one file, by their dotted names."""

    path: Path
    settings: dict[str, Any]


@dataclass(frozen=True)
class FileRecipe:
    """What a file says of a run: the recipe at the bottom, None for none, and the settings of each file on the way from
    there. repeats: the folder of the run whose configuration the file is."""

    recipe: str | None
    layers: tuple[Layer, ...]
    repeats: Path | None = None


def is_file_name(name: str) -> bool:
    """Whether a name is a path rather than the name of a recipe."""
    return name.endswith(_SUFFIXES) or "/" in name


def read_recipe(path: Path, recipes: Collection[str]) -> FileRecipe:
    """What a TOML or JSON file, or the configuration in a run folder, says of a run. `recipes`: names that `base` may
    give. Raises InputError with the file and, where it has one, the line or the key."""
    return _read(path / CONFIG if path.is_dir() else path, recipes, ())


def _read(path: Path, recipes: Collection[str], seen: tuple[Path, ...]) -> FileRecipe:
    if any(path.resolve() == before.resolve() for before in seen):
        circle = " -> ".join(map(str, (*seen, path)))
        raise InputError(f"{seen[-1]}: {_BASE} leads in a circle: {circle}")
    content = _content(path)
    if path.suffix == ".json":
        is_saved = "data_fingerprint" in content
        settings = read_settings(as_it_was(content), str(path), _FOUND_BY_RUN) if is_saved else None
        if settings is not None:
            return FileRecipe(None, (Layer(path, settings),), path.parent)
    base = content.pop(_BASE, None)
    settings = read_settings(content, str(path))
    if settings.get("schedule.steps") is not None and settings.get("schedule.epochs") is not None:
        raise InputError(
            f"{path}: schedule.steps and schedule.epochs both say how long to train; leave out one of them"
        )
    layer = Layer(path, {"name": path.stem, **settings})
    if base is None:
        return FileRecipe(None, (layer,))
    below = _below(base, path, recipes, seen)
    return replace(below, layers=(*below.layers, layer), repeats=None)


def _below(base: Any, path: Path, recipes: Collection[str], seen: tuple[Path, ...]) -> FileRecipe:
    if not isinstance(base, str):
        raise InputError(f"{path}: {_BASE} is {base!r}; it must be a recipe or a file, as a text in quotes")
    if not is_file_name(base):
        if base not in recipes:
            raise InputError(f"{path}: {_BASE} is {base!r}, and there is no such recipe{nearest(base, list(recipes))}")
        return FileRecipe(base, ())
    file = path.parent / Path(base).expanduser()
    if not file.exists():
        raise InputError(f"{path}: {_BASE} is {base!r}, and there is no file {file}; paths count from {path.parent}")
    return _read(file / CONFIG if file.is_dir() else file, recipes, (*seen, path))


def _content(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: not UTF-8; save the file in that encoding") from error
    try:
        content = json.loads(text, object_pairs_hook=_once) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of both parsers; with the line
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise InputError(f"{path} is not valid {kind}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings; they look like those in {CONFIG} of a run folder")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is there twice")
        found[key] = value
    return found
