"""Detects that a run's data sets changed since it began, and whether its model can go on with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.common.advice import flag, quoted
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json
from data_pipelines.common.message_parts import some_of
from trainer import checkpoint

_KIND = {1: "grey", 3: "colour"}
_TASK = {"single_label": "one class per image", "multi_label": "several findings per image"}


def data_before(run_dir: Path, result_name: str) -> dict[str, Any]:
    """The data of the run as it was, from its newest whole checkpoint and its result: "task", "classes", "channels" and
    "set_digests", as far as they are recorded."""
    known: dict[str, Any] = {}
    result = read_json(run_dir / result_name)
    if isinstance(result, dict):
        known |= {name: result[name] for name in ("task", "set_digests") if name in result}
    for path in reversed(checkpoint.numbered(run_dir)):
        try:
            return checkpoint.describe(path) | known
        except InputError:  # damaged: resuming takes the one before, too
            continue
    return known


def changed_sets(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line if the contents of the sets have changed; empty for runs of earlier versions, which recorded no
    digests."""
    was, are = before.get("set_digests"), now["set_digests"]
    if not isinstance(was, dict) or sorted(map(str, was.values())) == sorted(are.values()):
        return []
    shown = [", ".join(f"{name} {digest}" for name, digest in sets.items()) for sets in (was, are)]
    return [f"contents of the sets: {shown[0]} -> {shown[1]}"]


def require_same_outputs(run_dir: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise InputError where the model's outputs mean something else than in the data: the run cannot go on with them.
    before, now: as from `data_before`."""
    found = [*_classes(before.get("classes"), now["classes"]), *_kinds(before, now)]
    if not found:
        return
    remedy = f"Start a new run in another folder: {flag('--out')} DIR"
    if (begin := "--model.pretrained") == flag(begin):  # a transfer begins with those of its source
        remedy += f"; with {begin} {quoted(run_dir)} it begins with these weights"
    raise InputError(
        f"{run_dir} holds a run on other data, and its model cannot go on with these:\n  " + "\n  ".join(found) + "\n"
        f"{remedy}"
    )


def remake_advice(run_dir: Path, changed: Sequence[str]) -> str:
    """How to make a finished run's result again on its set, if only the training images changed: there is nothing left
    to train. "" otherwise. changed: as from `config.differences`."""
    fingerprints = [line for line in changed if line.startswith("data_fingerprint: ")]
    return f", or have this one made anew: rm -r {quoted(run_dir)}" if changed == fingerprints != [] else ""


def _classes(was: Sequence[str] | None, are: Sequence[str]) -> list[str]:
    if not was or list(was) == list(are):
        return []
    added, gone = [name for name in are if name not in was], [name for name in was if name not in are]
    if not added and not gone:
        return [f"the classes have another order: {some_of(was)} -> {some_of(are)}"]
    changes = {"classes added": added, "classes that are gone": gone}
    return [f"{what}: {some_of(names)}" for what, names in changes.items() if names]


def _kinds(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, what, words in (("channels", "pictures", _KIND), ("task", "labels", _TASK)):
        was, are = before.get(name), now[name]
        if was is not None and was != are:
            lines.append(f"{what}: {words.get(was, was)} -> {words.get(are, are)}")
    return lines
