"""The plan of a preparation: the settings that its processes share, and that an interrupted preparation resumes
with."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipelines.common.advice import quoted
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import atomic_file
from data_pipelines.common.raw_set import RawSet
from data_pipelines.preparation.bit_depth_of_set import find_bits
from data_pipelines.preparation.file_states import LOOKERS, digest_of_states
from data_pipelines.preparation.shard_records import ROWS, forget_part

SET = "set"  # folder of the set to be, beside the plan
_PLAN = "plan.json"
_BITS_FOUND, _LOOKED_AT = "bits found", "looked at"
# Plans of earlier versions do not have these, and what they change, finished shards tell by their images.
_MAY_LACK = ("views", "split by", "bits given", "upright", "drop duplicates")


def preparation_options(raw: RawSet) -> dict[str, Any]:
    """Preparation options for the manifest; None for values that were once the only ones, which manifests do not
    state."""
    return {
        "shorter_side": raw.shorter_side,
        "split": raw.split,
        "split_by": raw.split_by,
        "views": list(raw.views) or None,
        "xray_cut": None if raw.xray_size is None or raw.xray_cut == "square" else raw.xray_cut,
        "upright": raw.upright or None,
    }


def agree_on_plan(
    raw: RawSet, partial: Path, part: tuple[int, int] | None, force: bool = False, drop_duplicates: bool = False
) -> dict[str, Any]:
    """The plan: the number of "parts", and what `with_bits` needs; an earlier process's plan is kept. `force` begins
    anew, with a part only that one; an interrupted preparation that itself used `force` resumes.

    Raises InputError where finished shards are of another set or of other settings.
    """
    if partial.is_dir() and not (partial / SET).is_dir():
        shutil.rmtree(partial, ignore_errors=True)  # left behind by a preparation that ended
    former = read_plan(partial)
    plan = _plan(raw, part, drop_duplicates, former)
    different = _different(raw, plan, former)
    if force and part is None and (different or not (plan["parts"] > 1 or _anew(partial, 0).exists())):
        shutil.rmtree(partial, ignore_errors=True)
        former, different, plan["parts"] = {}, [], 1
    if different and any((partial / ROWS).glob("*/*.json")):
        _refuse(different, former, partial, part)
    if different:
        former, plan["parts"] = {}, part[1] if part else 1
    (partial / SET).mkdir(parents=True, exist_ok=True)
    plan |= _bits_found(raw, former, part)
    if plan != former:
        with atomic_file(partial / _PLAN) as file:
            file.write(json.dumps(plan).encode())
    if force:
        _begin_anew(partial, part, plan["parts"])
    return plan


def forget_other(raw: RawSet, partial: Path, part: tuple[int, int], drop_duplicates: bool) -> None:
    """Remove a plan of other settings without finished shards. Call only while no other process works there."""
    if is_other(raw, partial, part, drop_duplicates) and not any((partial / ROWS).glob("*/*.json")):
        (partial / _PLAN).unlink()


def is_other(raw: RawSet, partial: Path, part: tuple[int, int] | None, drop_duplicates: bool) -> bool:
    """Whether an earlier process left a plan of other settings."""
    former = read_plan(partial)
    return bool(_different(raw, _plan(raw, part, drop_duplicates, former), former))


def read_plan(partial: Path) -> dict[str, Any]:
    """The plan of an interrupted preparation; empty if there is none."""
    path = partial / _PLAN
    plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return plan


def with_bits(raw: RawSet, plan: dict[str, Any]) -> RawSet:
    """The set with the bit depth that was found by reading it, if any."""
    found = plan.get(_BITS_FOUND)
    return raw if found is None else replace(raw, bits=found, bits_found=True)


def was_begun_anew(partial: Path) -> bool:
    """Whether the interrupted preparation used --force."""
    return any(partial.glob("anew-*"))


def removal(partial: Path) -> str:
    """The command that removes an interrupted preparation."""
    return f"rm -r {quoted(partial)}"


def _plan(raw: RawSet, part: tuple[int, int] | None, drop_duplicates: bool, former: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": raw.name,
        "task": raw.task,
        "classes": list(raw.classes),
        "xray size": raw.xray_size,
        "bits": raw.bits,
        "bits given": raw.bits_given,
        "equal images": raw.equal_images,
        "drop duplicates": drop_duplicates,
        "parts": part[1] if part else former.get("parts", 1),
        **{name.replace("_", " "): value for name, value in preparation_options(raw).items()},
    }


def _different(raw: RawSet, plan: dict[str, Any], former: dict[str, Any]) -> list[str]:
    """How the plan of an earlier process differs, if there is one."""
    if not former:
        return []
    known = {name: plan[name] for name in _MAY_LACK} | former
    if raw.is_user_set:  # earlier versions called it as the folder of its images
        known["name"] = plan["name"]
    different = [name for name, value in plan.items() if known.get(name) != value]
    return list(dict.fromkeys(name.removesuffix(" given") for name in different))


def _refuse(different: list[str], former: dict[str, Any], partial: Path, part: tuple[int, int] | None) -> None:
    if lacking := [name for name in different if name not in former]:
        raise InputError(
            f"{partial} holds a preparation that an earlier version of this program began, which prepared the set with "
            f"other {', '.join(lacking)}; remove it, and repeat the command: {removal(partial)}"
        )
    anew = "" if part else "begin anew with --force, "
    raise InputError(
        f"{partial} holds an interrupted preparation with other {', '.join(different)}; go on with its command, {anew}"
        f"or remove it: {removal(partial)}"
    )


def _begin_anew(partial: Path, part: tuple[int, int] | None, parts: int) -> None:
    """Forget finished shards of a part, unless it was itself begun anew: then it was interrupted, and resumes."""
    if part is None and parts > 1:
        return  # it ends an array job
    number = part[0] if part else 0
    if not _anew(partial, number).exists():
        forget_part(partial / SET, number, parts)
        _anew(partial, number).touch()


def _anew(partial: Path, number: int) -> Path:
    """Marker file of a part that was begun anew."""
    return partial / f"anew-{number}"


def _bits_found(raw: RawSet, former: dict[str, Any], part: tuple[int, int] | None) -> dict[str, Any]:
    """The bit depth that the first process found, with the files it read; if there are other files now, or these have
    changed, the set is read again. Tasks of an array job keep the value, and the last one reads everything."""
    if not raw.xray_size or raw.bits is not None:
        return {_BITS_FOUND: None}
    known = {name: former[name] for name in (_BITS_FOUND, _LOOKED_AT) if name in former}
    if part and _BITS_FOUND in known:
        return known
    with ThreadPoolExecutor(LOOKERS, thread_name_prefix="look") as lookers:
        looked_at = digest_of_states(raw.images, lookers)
    if known.get(_LOOKED_AT) == looked_at:
        return known
    return {_BITS_FOUND: find_bits(raw), _LOOKED_AT: looked_at}
