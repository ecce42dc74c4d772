"""What `pretrain` is told to run: a named recipe, or a file with settings on top of one."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_pipelines.common.errors import InputError
from data_pipelines.common.limits import require_numbers
from data_pipelines.common.message_parts import nearest
from data_pipelines.common.typed_paths import typed_path
from trainer.config import Config, DataConfig, with_settings
from trainer.recipes import own
from trainer.recipes.config_file import Layer, is_file_name, read_recipe
from trainer.recipes.named import RECIPES

OWN = "own"
_NO_SET = "SET"  # stands for the sets of a recipe that is shown, not run


@dataclass(frozen=True)
class Recipe:
    """A run to be configured. name: of the recipe at the bottom, None if a file says it all. repeats: the folder of the
    run whose configuration it is."""

    name: str | None
    layers: tuple[Layer, ...] = ()
    repeats: Path | None = None

    @property
    def is_named(self) -> bool:
        """Whether a recipe is at the bottom."""
        return self.name is not None

    @property
    def doc(self) -> str:
        """What it is, for its help."""
        if self.layers:
            return f"The settings of {self.layers[-1].path}."
        recipe = own.choose if self.name == OWN else RECIPES[self.name or ""]
        return inspect.getdoc(recipe.func if isinstance(recipe, partial) else recipe) or ""

    def preview(self) -> Config:
        """The configuration at the bottom, with nothing chosen yet."""
        if self.name is None:
            return Config(data=DataConfig(sets=(_NO_SET,)))
        return own.PREVIEW if self.name == OWN else RECIPES[self.name]()

    def config(self, given: Mapping[str, Any]) -> Config:
        """The configuration at the bottom. `given`: settings of the command line, on which `own` depends.

        Raises InputError for a set that `own` cannot look at, and where no set is named at all.
        """
        settings = {name: value for layer in self.layers for name, value in layer.settings.items()} | dict(given)
        if self.name == OWN:
            return own.choose(settings)
        if self.name is None and not settings.get("data.sets"):
            raise InputError(
                f'{self.layers[-1].path} names neither a base, such as base = "embedded", nor data.sets; give one of '
                "them there, or --data.sets"
            )
        return self.preview()

    def with_files(self, config: Config) -> Config:
        """A configuration with the settings of the files. Raises InputError, with the file, for what does not go
        together."""
        for layer in self.layers:
            try:
                config = with_settings(config, layer.settings)
                require_numbers(config)
            except InputError as error:
                raise InputError(f"{layer.path}: {error}") from error
        return config

    def called(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The name of the run, where it is decided before its configuration is."""
        settings = {name: value for layer in self.layers for name, value in layer.settings.items()} | dict(given)
        if "name" in settings:
            return {"name": settings["name"]}
        return {"name": own.run_name(settings)} if self.name == OWN else {}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name, or in that file or run folder. Raises InputError for one that is not there."""
    known = [*RECIPES, OWN]
    if name in known:
        return Recipe(name)
    if not is_file_name(name):
        of_files = "; a file's name ends in .toml or .json" if Path(name).suffix else ""
        raise InputError(f"unknown recipe {name!r}{of_files}{nearest(name, known)}")
    path = typed_path(name, "the recipe")
    if not path.exists():
        raise InputError(f"there is no file {path}; name a TOML file, the config.json of a run, or a recipe")
    found = read_recipe(path, known)
    return Recipe(found.recipe, found.layers, found.repeats)
