"""The settings that a sweep varies: of `--vary optim.base-lr=0.003,0.03 model.frozen-stages=0,2` every value of one
with every value of the other."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import product
from math import isfinite
from typing import Any, get_args

from data_pipelines.common.errors import InputError
from data_pipelines.common.file_names import file_name_of
from data_pipelines.common.hashes import digest_of
from data_pipelines.common.limits import require_numbers
from data_pipelines.common.message_parts import nearest
from trainer.config import MAY_CHANGE, flag_of, misfit, setting_kinds, with_plain_settings
from trainer.config.reader import NO_VALUE
from trainer.finetuning.settings import OWN, Given, Settings

FLAG = "--vary"
Varied = Mapping[str, tuple[Any, ...]]
"""The values of each setting that is varied, by its dotted name."""

_LISTED = {"seed": "--seeds", "data.sets": "--targets", "data.shots": "--shots", "model.pretrained": "--sources"}
_PLAIN = re.compile(r"\w([\w.+]|e-\d){0,30}", re.ASCII)  # a dash stands between the items of a list, and in 1e-05


def require_one_value_each(arguments: Sequence[str]) -> None:
    """Raise InputError, with the command that was meant, where the flag of a setting has several values, or `--vary` is
    there twice."""
    if sum(word.partition("=")[0] == FLAG for word in arguments) > 1:
        raise InputError(f"{FLAG} is there twice; give it once, with all settings behind it: {FLAG} A=1,2 B=3,4")
    flags = {flag_of(name): name for name in setting_kinds() if not _not_for_trials(name)}
    for i, word in enumerate(arguments):
        flag, _, inside = word.partition("=")
        name = flags.get(flag.replace("_", "-"))
        if name is None or _is_list(setting_kinds()[name]):
            continue
        values = [inside] if inside else _values_behind(arguments[i + 1 :])
        values = [part for value in values for part in value.split(",") if part]
        if len(values) > 1:
            raise InputError(f"{flag} takes one value; to try several: {FLAG} {name_of_flag(name)}={','.join(values)}")


def _values_behind(words: Sequence[str]) -> list[str]:
    stop = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    return list(words[:stop])


def read_variations(words: Sequence[str], settings: Settings, given: Given) -> Varied:
    """The values behind `--vary`. settings, given: those of the command line, the latter as far as it names them.

    Raises InputError for a setting that is not known, is given besides, or of which trials make no sense, and for a
    value that is there twice or that the setting does not take.
    """
    varied: dict[str, tuple[Any, ...]] = {}
    for word in words:
        typed, equals, values = word.partition("=")
        name = _known(typed)
        called = name_of_flag(name)
        if not equals or not values:
            raise InputError(f"{FLAG} {word}: its values are missing, as in {FLAG} optim.base-lr=0.003,0.03")
        if "" in values.split(","):
            raise InputError(f"{FLAG} {word}: a value is missing; write them with commas and without spaces")
        if name in varied:
            raise InputError(f"{FLAG} {called} is there twice; put all its values behind one")
        if name in given:
            raise InputError(f"{FLAG} {called} and {flag_of(name)} set the same; leave out {flag_of(name)}")
        varied[name] = tuple(_value(name, text) for text in values.split(","))
        for i, value in enumerate(varied[name]):
            if value in varied[name][:i]:
                raise InputError(f"{FLAG} {called}: {values.split(',')[i]} is there twice")
            require_numbers(with_plain_settings(settings, {name: value}))
    return varied


def variants_of(varied: Varied) -> list[dict[str, Any]]:
    """Every combination of values: settings by name. One that is empty where nothing is varied."""
    return [dict(zip(varied, values, strict=True)) for values in product(*varied.values())]


def folder_of(variant: Given) -> str:
    """The name of a trial's folder: "base-lr-0.003_frozen-stages-2"; empty for no settings."""
    return "_".join(f"{name_of_flag(name).rpartition('.')[2]}-{_in_name(value)}" for name, value in variant.items())


def _known(called: str) -> str:
    """The setting of a name as it is typed. Raises InputError."""
    name = called.replace("-", "_")
    kinds = setting_kinds()
    last = name.rpartition(".")[2]
    alike = [known for known in kinds if known.rpartition(".")[2] in (last, last.removesuffix("s"))]
    meant = name if name in kinds else next(iter(alike), "")
    if reason := _not_for_trials(meant):
        raise InputError(f"{FLAG} {called}: {reason}")
    if meant != name:
        usable = [name_of_flag(known) for known in kinds if not _not_for_trials(known)]
        raise InputError(f"{FLAG}: unknown setting {called!r}{nearest(name_of_flag(meant or called), usable)}")
    return name


def _not_for_trials(name: str) -> str:
    """Why a setting is not varied; "" if it may be."""
    if name in _LISTED:
        return f"a sweep takes several by {_LISTED[name]}"
    if name in OWN:
        return "a run's name is that of its source, target, shots and seed"
    if name == "model.name":
        return "each source brings its own model"
    if name == "data.join":
        return "a fine-tuning has one target, and joins none"
    if name in MAY_CHANGE or name.partition(".")[0] in MAY_CHANGE:
        return "it does not change what is learnt, so that there is nothing to compare"
    return ""


def _value(name: str, text: str) -> Any:
    """A value as its flag would have it. Raises InputError for one of another type."""
    kind = setting_kinds()[name]
    number = float if float in _plain_kinds(kind) else int
    words = text.split()
    candidates = (_plain(text, number), text, [_plain(word, number) for word in words], words)
    fitting = [one for one in candidates if not misfit(kind, one)]
    if not fitting:
        raise InputError(f"{FLAG} {name_of_flag(name)}: {text!r} is no value of it{misfit(kind, text)}")
    return tuple(fitting[0]) if isinstance(fitting[0], list) else fitting[0]


def _plain(text: str, number: type) -> Any:
    known = {NO_VALUE: None, "true": True, "True": True, "false": False, "False": False}
    if text in known:
        return known[text]
    with suppress(ValueError):
        if isfinite(value := number(text)):
            return value
    return text


def _plain_kinds(kind: Any) -> set[Any]:
    return {kind}.union(*map(_plain_kinds, get_args(kind)))


def _is_list(kind: Any) -> bool:
    return any(getattr(one, "__origin__", None) is tuple for one in _plain_kinds(kind))


def name_of_flag(name: str) -> str:
    """A setting as it is typed: "optim.base-lr"."""
    return name.replace("_", "-")


def _in_name(value: Any) -> str:
    """A value as a part of a file's name: another one for each value of a setting."""
    items = [str(item) for item in value] if isinstance(value, tuple) else [str(value)]
    if all(_PLAIN.fullmatch(item) for item in items):
        return "-".join(items).lower() if isinstance(value, bool) else "-".join(items)
    text = " ".join(items)
    return f"{file_name_of(text)}-{digest_of(text)[:8]}"
