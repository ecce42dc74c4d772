"""Name and folder of an evaluation, so that nothing of another test set is overwritten."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.common.errors import InputError
from data_pipelines.common.file_names import file_name_of
from data_pipelines.common.files import read_json
from data_pipelines.common.hashes import digest_of
from trainer.evaluation.assessment.evaluated_set import SPLIT_RULE, EvaluatedSet
from trainer.evaluation.runs import Run

NUMBERS = "evaluation.json"
CASES = "cases.csv"
_SHOWN_DIGITS = 8
# In what an evaluation says of its data; versions before the first had the second alone.
_MARKS = (r"content ([0-9a-f]{16})\b", r"manifest SHA-256 ([0-9a-f]{16})\b")


class OutputNames(NamedTuple):
    """Names for an evaluated set in a run folder. mark: the beginning of its digest if another set has the same name;
    else "". head: the one that was tested of a run with several; else ""."""

    name: str
    mark: str
    split: str
    head: str = ""

    @property
    def text(self) -> str:
        """Name for people."""
        return f"{self.name} ({self.mark})" if self.mark else self.name

    @property
    def title(self) -> str:
        """Title of the evaluation."""
        return f"{self.text}, {self.split}" + (f", head {self.head}" if self.head else "")

    @property
    def folder(self) -> str:
        """Folder of the evaluation, inside the run folder."""
        head = f"head-{file_name_of(self.head)}" if self.head else ""
        return "-".join(filter(None, ("evaluation", file_name_of(self.name), self.mark, self.split, head)))


def output_names_of(run: Run, tested: EvaluatedSet, section_of: Callable[[str], str]) -> OutputNames:
    """The names for a set. section_of: the model card's section under a title."""
    head = run.head.name if run.head else ""
    plain = OutputNames(" ".join(tested.name.split()), "", tested.split, " ".join(head.split()))
    former = (section_of(plain.title), _identity_of(run.folder / plain.folder))
    if tested.is_namesake or any(text and is_of_another_set(text, tested) for text in former):
        return plain._replace(mark=_mark(tested))
    return plain


def is_of_another_set(former: str, tested: EvaluatedSet) -> bool:
    """Whether an earlier evaluation, by what it says of its data, is of another set than this one."""
    new = "\n".join(tested.provenance)
    for mark in _MARKS:
        was, now = (sorted(set(re.findall(mark, text))) for text in (former, new))
        if was and now:
            return was != now
    return (SPLIT_RULE in former) != tested.own


def require_no_other(out: Path, tested: EvaluatedSet) -> None:
    """Raise InputError for a folder with the evaluation of another set."""
    identity = _identity_of(out)
    if identity and is_of_another_set(identity, tested):
        raise InputError(f"{out} holds the evaluation of another set; choose another --out")


def _identity_of(folder: Path) -> str:
    found: Any = read_json(folder / NUMBERS)
    lines = found.get("provenance") if isinstance(found, dict) else None
    return "\n".join(map(str, lines)) if isinstance(lines, list) else ""


def _mark(tested: EvaluatedSet) -> str:
    digests = sorted(tested.digests.values())
    if not digests:  # only a run's own sets may be unknown
        return "own"
    return (digests[0] if len(digests) == 1 else digest_of(digests))[:_SHOWN_DIGITS]
