"""Site profiles: what submit.py must know of a cluster, in TOML files of slurm/sites or of the user."""

import difflib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SITES = Path(__file__).parent / "slurm" / "sites"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DIRECTIVE = re.compile(r"[a-z][a-z0-9-]*")
_VALUE = re.compile(r"[\w.,:/=@%+\-\[\]()*&|]*")
_DURATION = re.compile(r"(?:(\d+)-)?(\d{1,3}):([0-5]\d):([0-5]\d)")


class UsageError(Exception):
    """A user's mistake: the message says what, where and how to mend it."""


@dataclass(frozen=True)
class Site:
    """A cluster, as its profile says; the profile `generic` explains each value."""

    gpus_per_node: int
    cores_per_node: int
    whole_nodes: bool = False
    partition: str = ""
    account: str = ""
    gpu_request: str = "--gres=gpu:{gpus}"
    time_limit: str = "24:00:00"
    requeue: bool = True
    grace_s: int = 300
    max_array: int = 1000
    max_nodes: int = 0
    address: str = "{host}"
    interface: str = ""
    allreduce_gbps: float = 0.0
    local_dir: str = "/tmp"
    stage: str = ""
    modules: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    sbatch: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_nodes < 0:
            raise UsageError("max_nodes must be 0, for not known, or more")
        if self.gpus_per_node < 0 or self.cores_per_node < 1 or self.max_array < 1 or self.grace_s < 1:
            raise UsageError("gpus_per_node must be 0 or more; cores_per_node, max_array and grace_s 1 or more")
        seconds(self.time_limit, "time_limit")
        for name in self.environment:
            if not _NAME.fullmatch(name):
                raise UsageError(f"environment: {name!r} is not the name of a variable")
        for key, value in self.sbatch.items():
            check_directive(key, value)

    @property
    def ranks_per_node(self) -> int:
        """One rank per GPU, or one on a node without."""
        return max(1, self.gpus_per_node)


def load_site(name: str) -> Site:
    """The profile of this name, or of this TOML file. Raises UsageError naming the nearest right name or key."""
    path = Path(name) if name.endswith(".toml") else SITES / f"{name}.toml"
    if not path.is_file():
        raise UsageError(
            f"no site {name!r}{nearest(name, site_names())}; for one of your own copy {SITES}/generic.toml, change the "
            "copy, and name it with --site"
        )
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: {error}{_line_of(text, str(error))}") from error
    kinds = {one.name: one.type for one in fields(Site)}
    for key, value in content.items():
        if key not in kinds:
            raise UsageError(f"{path}: unknown key {key!r}{nearest(key, kinds)}")
        if not _is_of(value, kinds[key]):
            kind = getattr(kinds[key], "__name__", kinds[key]) if kinds[key] in (int, float, str, bool) else kinds[key]
            raise UsageError(f"{path}: {key} is {value!r}, not of type {kind}")
    missing = [key for key in ("gpus_per_node", "cores_per_node") if key not in content]
    if missing:
        raise UsageError(f"{path}: {' and '.join(missing)} must be given")
    try:
        return Site(**content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _line_of(text: str, error: str) -> str:
    """The line that an error of the parser names, as the end of a message."""
    found = re.search(r"at line (\d+)", error)
    line = "".join(text.splitlines()[int(found[1]) - 1 : int(found[1])]).strip() if found else ""
    key, equals, value = (part.strip() for part in line.partition("="))
    quoted = f'; text needs quotes: {key} = "{value}"' if equals and re.fullmatch(r"[A-Za-z][\w.-]*", value) else ""
    return f": {line}{quoted}" if line else ""


def site_names() -> list[str]:
    """The profiles that come with the package."""
    return sorted(path.stem for path in SITES.glob("*.toml"))


def _is_of(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if kind in (str, bool):
        return isinstance(value, kind)
    if isinstance(value, dict):
        return kind == dict[str, str] and all(isinstance(each, str) for each in value.values())
    return kind == list[str] and isinstance(value, list) and all(isinstance(each, str) for each in value)


def check_directive(key: str, value: str) -> None:
    """Raises UsageError for what could be more than one directive."""
    if not _DIRECTIVE.fullmatch(key):
        raise UsageError(
            f"--sbatch {key}={value}: {key!r} is not the name of a directive; write it as in --sbatch qos=high"
        )
    if not _VALUE.fullmatch(value):
        raise UsageError(f"the directive {key}={value!r} has characters that do not belong into one")


def seconds(duration: str, named: str = "--time") -> int:
    """[D-]HH:MM:SS in seconds. SLURM's shorter forms are refused: 8:00 would be eight minutes.

    named: how the user set it. Raises UsageError for another form.
    """
    found = _DURATION.fullmatch(duration)
    if not found:
        raise UsageError(f"{named} {duration!r} is not a duration; write HH:MM:SS or D-HH:MM:SS")
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def counted(number: int, what: str) -> str:
    """Such as "1 rank" and "2,000 ranks"."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def set_in_a_copy(value: str) -> str:
    """The end of a message on a key of a site profile: how to give it another value."""
    return f"set it to {value} in a copy of {SITES}/generic.toml, and name that with --site"


def nearest(name: str, known: Iterable[str]) -> str:
    """The nearest known name, and all, as the end of a message."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return f"{meant} (known: {', '.join(known)})"
