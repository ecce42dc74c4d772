"""Flags of earlier versions, which queued jobs and notes may still give."""

from collections.abc import Mapping, Sequence

from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import rank_0_logger


def translate(arguments: Sequence[str], names: Mapping[str, str], verb: str = "is now") -> list[str]:
    """The command line with today's names in place of the old ones: `names` maps old flags to new ones, such as
    "--run-dir" to "--out". Both may be written with "=", with "_", and negated. Each old flag is noted once: "--run-dir
    is now --out", or with another verb.

    Raises InputError for an old and a new flag with different values.
    """
    known = {**names, **{negated(old): negated(new) for old, new in names.items()}}
    found = list(arguments)
    noted: dict[str, str] = {}
    for i, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        plain = flag.replace("_", "-")
        if plain in known:
            found[i] = f"{known[plain]}{equals}{value}"
            noted[plain] = known[plain]
    for old, new in noted.items():
        values = _values(arguments, old), _values(arguments, new)
        if values[0] and values[1] and values[0] != values[1]:
            raise InputError(f"{old} and {new} are two flags for one thing, with different values; leave out {old}")
        rank_0_logger.info(f"note: {old} {verb} {new}")
    return found


def negated(flag: str) -> str:
    """The flag that switches it off: "--data.no-flip" of "--data.flip"."""
    section, dot, name = flag[2:].rpartition(".")
    return f"--{section}{dot}no-{name}"


def _values(arguments: Sequence[str], flag: str) -> set[str]:
    """The values of a flag; of a switch none."""
    found = set()
    for i, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name.startswith("--") and name.replace("_", "-") == flag:
            following = arguments[i + 1 : i + 2]
            found |= {value} if equals else {each for each in following if not each.startswith("--")}
    return found
