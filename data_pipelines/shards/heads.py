"""A head for each of several joined sets, over that set's own findings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_pipelines.common.advice import quoted
from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import nearest


@dataclass(frozen=True)
class Head:
    """name: of its set. classes: the findings as that set names them. start: the first of its outputs."""

    name: str
    classes: tuple[str, ...]
    start: int

    @property
    def columns(self) -> slice:
        """Its outputs among those of all heads."""
        return slice(self.start, self.start + len(self.classes))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of its outputs among those of all heads: "films: Effusion"."""
        return tuple(f"{self.name}: {name}" for name in self.classes)


def heads_of(classes: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
    """The heads of sets with these findings, by the names of the sets: their outputs lie side by side, in this
    order."""
    heads: list[Head] = []
    for name, of_set in classes.items():
        heads.append(Head(name, tuple(of_set), heads[-1].columns.stop if heads else 0))
    return tuple(heads)


def described(heads: Sequence[Head]) -> dict[str, Any]:
    """The findings of each head, as plain JSON types: what `heads_of` takes."""
    return {head.name: list(head.classes) for head in heads}


def choose_head(heads: Sequence[Head], name: str | None, owner: object) -> Head:
    """The head of that name. owner: whose heads they are. Raises InputError for none of that name, and where none is
    named."""
    names = [head.name for head in heads]
    if name is None:
        raise InputError(
            f"{owner} has a head for each of its sets ({', '.join(names)}); name one with --head, such as "
            f"--head {quoted(names[0])}"
        )
    if name not in names:
        raise InputError(f"{owner} has no head {name!r}{nearest(name, names)}")
    return heads[names.index(name)]


def refuse_head(name: str | None, owner: object) -> None:
    """Raise InputError for a head that is named although there are none to choose from."""
    if name is not None:
        raise InputError(f"{owner} has one head alone; leave out --head {quoted(name)}")
