"""What the network gave for each picture of a table of predictions, kept beside the table: so the same command takes
only what is new or changed, and goes on where it was stopped.

`predictions.csv.kept.jsonl` grows by whole lines: what all was computed with, the inputs, a line for each picture, and
one that tells that the table beside it has them. The last line on a picture counts; one that is not as it was written
does not.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from data_pipelines.common.errors import InputError
from data_pipelines.common.hashes import digest_of
from data_pipelines.common.printable import printable
from data_pipelines.preparation.file_states import State

SUFFIX = ".kept.jsonl"
WEIGHTS = "weights"
"""Of what all is computed with, that by which a table is of another run."""
_MADE_WITH, _INPUTS, _FILE, _TABLE, _SEAL = "made_with", "inputs", "file", "table", "seal"
_Place = tuple[int, int]  # offset and length of a line, in bytes


@dataclass(frozen=True)
class Judged:
    """What a picture was found to be. content: hash of its bytes. error: why it has no prediction, else "". left_out:
    the kind under which it is counted where nobody named it, else "". logits: C of them; none with an error. novelty:
    three numbers, None of a run that does not know it."""

    content: int
    error: str = ""
    left_out: str = ""
    remark: str = ""
    logits: Sequence[float] = ()
    novelty: Sequence[float] | None = None


@dataclass(eq=False)
class _Lines:
    """Where the lines of a file are."""

    made_with: dict[str, str] = field(default_factory=dict)
    has_table: bool = False
    inputs: list[str] = field(default_factory=list)
    of_state: dict[State, _Place] = field(default_factory=dict)
    of_content: dict[int, _Place] = field(default_factory=dict)
    of_name: dict[str, _Place] = field(default_factory=dict)


class KeptOutputs:
    """Those of one table.

    made_with: what decides on outputs, by its name in messages. inputs: what the user named, absolute. Where the file
    was made with something else, or `anew`, nothing of it is used. Raises OSError.
    """

    def __init__(self, table: Path, made_with: Mapping[str, str], inputs: Iterable[Path], anew: bool = False) -> None:
        self.path = table.with_name(f"{table.name}{SUFFIX}")
        self._made_with = dict(made_with)
        self._inputs = [os.fsencode(path.resolve()).decode(errors="backslashreplace") for path in inputs]
        found = _Lines() if anew else _read(self.path)
        known = bool(found.made_with)
        self.differing = [name for name in made_with if known and found.made_with.get(name) != made_with[name]]
        """By name, what the file was made with and is another now."""
        self.table_is_of_other_weights = found.has_table and WEIGHTS in self.differing
        self.table_is_of_these_weights = found.has_table and WEIGHTS not in self.differing
        self._is_used = known and not self.differing
        self.has_same_inputs = self._is_used and found.inputs == self._inputs
        self._lines = found if self._is_used else _Lines()
        self._file: BinaryIO | None = None

    def __enter__(self) -> "KeptOutputs":
        """Open the file to add to it. Raises InputError while another process does."""
        self._file = self.path.open("a+b")
        self._require_alone(self._file)
        if not self._is_used:
            self._file.truncate(0)
        if self._is_used and not _ends_with_a_line(self._file):
            self._file.write(b"\n")
        if not self._is_used:
            self._write({_MADE_WITH: self._made_with})
            if self.table_is_of_these_weights:
                self.add_table()
        if not self.has_same_inputs:
            self._write({_INPUTS: self._inputs})
        self._file.flush()
        return self

    def _require_alone(self, file: BinaryIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the file is closed
        except BlockingIOError as error:
            file.close()
            table = printable(str(self.path).removesuffix(SUFFIX))
            raise InputError(
                f"{table} is being written by another start; wait for its end, or choose another --out"
            ) from error
        except OSError:
            pass  # some file systems have no locks

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    def of_state(self, state: State) -> Judged | None:
        """What is kept of a file that has not changed since."""
        return self._at(self._lines.of_state.get(state))

    def of_content(self, content: int) -> Judged | None:
        """What is kept of the same bytes, wherever they lay."""
        return self._at(self._lines.of_content.get(content))

    def has(self, name: str) -> bool:
        """Whether anything is kept of the picture that the table calls so."""
        return name in self._lines.of_name

    def of_name(self, name: str) -> Judged | None:
        """What is kept of the picture that the table calls so."""
        return self._at(self._lines.of_name.get(name))

    def add_table(self) -> None:
        """Note that the table is there, and of these weights."""
        self._write({_TABLE: True})

    def add(self, pictures: Iterable[tuple[str, State, Judged]]) -> None:
        """Keep these: name in the table, state, outputs. They are in the file when this returns."""
        assert self._file is not None
        for name, state, judged in pictures:
            self._write({_FILE: name, "state": state, **asdict(judged)})
        self._file.flush()

    def _write(self, content: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps({**content, _SEAL: digest_of(content)}).encode() + b"\n")

    def _at(self, place: _Place | None) -> Judged | None:
        if place is None:
            return None
        assert self._file is not None
        line: dict[str, Any] = json.loads(os.pread(self._file.fileno(), place[1], place[0]))
        return Judged(**{name: value for name, value in line.items() if name not in (_FILE, "state", _SEAL)})


def _ends_with_a_line(file: BinaryIO) -> bool:
    return file.seek(0, os.SEEK_END) == 0 or os.pread(file.fileno(), 1, file.tell() - 1) == b"\n"


def _read(path: Path) -> _Lines:
    """The lines of a file; none where there is no file."""
    found, offset = _Lines(), 0
    if not path.is_file():
        return found
    with path.open("rb") as file:
        for line in file:
            place, offset = (offset, len(line)), offset + len(line)
            try:
                _note(found, json.loads(line), place)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # cut off, damaged, or not ours
                continue
    return found


def _note(found: _Lines, line: dict[str, Any], place: _Place) -> None:
    """Note one line. One that is not as it was written raises what its reader stumbles over."""
    if line.pop(_SEAL) != digest_of(line):
        raise ValueError("not what was written")
    if _MADE_WITH in line:
        found.made_with = line[_MADE_WITH]
    elif _TABLE in line:
        found.has_table = True
    elif _INPUTS in line:
        found.inputs = line[_INPUTS]
    else:
        path, size, modified, changed = line["state"]
        found.of_state[path, size, modified, changed] = place
        found.of_content[line["content"]] = found.of_name[line[_FILE]] = place
