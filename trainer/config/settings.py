"""Settings by their dotted names, such as "data.image_size": the flags that set them, and configurations with some of
them changed."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, get_type_hints

from data_pipelines.common.old_flags import negated
from trainer.config.config import Config
from trainer.config.sections import LARGEST_SIDE


@cache
def setting_kinds() -> dict[str, Any]:
    """The type of each setting, by its name in `config.json`: "seed", "data.image_size", "runtime.device"."""
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(Config).items():
        inner = get_type_hints(kind) if is_dataclass(kind) else None
        found |= {name: kind} if inner is None else {f"{name}.{inside}": of_it for inside, of_it in inner.items()}
    return found


def flag_of(setting: str) -> str:
    """The flag of a setting: "--data.image-size"; that of "runtime.device" is "--device"."""
    return f"--{setting.removeprefix('runtime.').replace('_', '-')}"


def given_by(arguments: Iterable[str]) -> list[str]:
    """The names of the settings whose flags a command line has, "--no-" forms too."""
    words = {word.partition("=")[0].replace("_", "-") for word in arguments if word.startswith("--")}
    return [name for name in setting_kinds() if words & {flag_of(name), negated(flag_of(name))}]


def values_of(config: Config, names: Iterable[str]) -> dict[str, Any]:
    """The values of some settings, by name."""
    found = {}
    for name in names:
        section, _, inside = name.rpartition(".")
        found[name] = getattr(getattr(config, section) if section else config, inside)
    return found


def with_settings(config: Config, given: Mapping[str, Any]) -> Config:
    """The configuration with these settings, by name, and those that follow them: `data.resize` keeps its ratio to
    `data.image_size`, and `schedule.epochs` counts instead of `schedule.steps`, unless they are given too.

    Raises InputError for values that do not go together.
    """
    return with_plain_settings(config, {**_following(config, given), **given})


def with_plain_settings(config: Config, given: Mapping[str, Any]) -> Config:
    """The configuration with these settings, by name, and no other changes. Raises InputError as `with_settings`."""
    changed: dict[str, Any] = {}
    for each in fields(config):
        inner = {name.partition(".")[2]: value for name, value in given.items() if name.startswith(f"{each.name}.")}
        if inner:
            changed[each.name] = replace(getattr(config, each.name), **inner)
        elif each.name in given:
            changed[each.name] = given[each.name]
    return replace(config, **changed)


def open_to(config: Config, names: Collection[str]) -> Config:
    """The configuration, changed so that values of these settings are not checked against others that would follow
    them: what a command line is parsed over."""
    if "data.image_size" not in names or "data.resize" in names:
        return config
    return replace(config, data=replace(config.data, resize=LARGEST_SIDE))


def _following(config: Config, given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if (size := given.get("data.image_size")) is not None:
        found["data.resize"] = round(size * config.data.resize / config.data.image_size)
    if given.get("schedule.epochs") is not None:
        found["schedule.steps"] = None
    return found
