"""The plan of a preparation: what the first process was asked for, for others that take part, and later ones that go on
with it."""

import json
import shutil
from pathlib import Path
from typing import Any

from data_pipelines.advice import quoted
from data_pipelines.datasets.raw import RawSet
from data_pipelines.depth_of_set import find_bits
from data_pipelines.errors import InputError
from data_pipelines.shards import atomic_file

SET = "set"  # folder of the set to be, beside the plan
_PLAN = "plan.json"
_BITS_FOUND = "bits found"
# Plans of earlier versions do not have these, and what they change, finished shards tell by their images.
_MAY_LACK = ("views", "split by", "bits given")


def ways(raw: RawSet) -> dict[str, Any]:
    """What was chosen among ways to prepare a set, as its manifest has it; None for what every set was once, and what
    manifests do not name."""
    return {
        "shorter_side": raw.shorter_side,
        "split": raw.split,
        "split_by": raw.split_by,
        "views": list(raw.views) or None,
        "xray_cut": None if raw.xray_size is None or raw.xray_cut == "square" else raw.xray_cut,
    }


def agree_on_plan(raw: RawSet, partial: Path, part: tuple[int, int] | None) -> tuple[int, int | None]:
    """How many parts the work has, and the bits of its pixels if only reading tells, by the plan that the first process
    left. Raises InputError where that had another set or other settings in mind."""
    plan: dict[str, Any] = {
        "name": raw.name,
        "task": raw.task,
        "classes": list(raw.classes),
        "xray size": raw.xray_size,
        "bits": raw.bits,
        "bits given": raw.bits_given,
        "equal images": raw.equal_images,
        "parts": part[1] if part else 1,
        **{name.replace("_", " "): value for name, value in ways(raw).items()},
    }
    path = partial / _PLAN
    if not (partial / SET).is_dir():
        shutil.rmtree(partial, ignore_errors=True)  # left behind by a preparation that ended
    (partial / SET).mkdir(parents=True, exist_ok=True)
    plan[_BITS_FOUND] = _bits_found(raw, path)
    if not path.is_file():
        with atomic_file(path) as file:
            file.write(json.dumps(plan).encode())
    former = {name: plan[name] for name in _MAY_LACK} | json.loads(path.read_text(encoding="utf-8"))
    if part is None:
        plan["parts"] = former["parts"]
    _require_same(plan, former, partial)
    return int(plan["parts"]), plan[_BITS_FOUND]


def removal(partial: Path) -> str:
    """The command that removes an interrupted preparation."""
    return f"rm -r {quoted(partial)}"


def _require_same(plan: dict[str, Any], former: dict[str, Any], partial: Path) -> None:
    different = [name for name, value in plan.items() if former.get(name) != value]
    different = list(dict.fromkeys(name.removesuffix(" given") for name in different))
    if lacking := [name for name in different if name not in former]:
        raise InputError(
            f"{partial} holds a preparation that an earlier version of this program began, which prepared the set with "
            f"other {', '.join(lacking)}; remove it, and repeat the command: {removal(partial)}"
        )
    if different:
        raise InputError(
            f"{partial} holds an interrupted preparation with other {', '.join(different)}; go on with its command, or "
            f"remove it: {removal(partial)}"
        )


def _bits_found(raw: RawSet, plan: Path) -> int | None:
    """What the first process found; tasks of an array job that start together look through the same files, and find the
    same. A plan of an earlier version does not say it, and pictures were then scaled one by one."""
    former = json.loads(plan.read_text(encoding="utf-8")) if plan.is_file() else {}
    if _BITS_FOUND in former or not raw.xray_size or raw.bits is not None:
        bits: int | None = former.get(_BITS_FOUND)
        return bits
    return find_bits(raw)
