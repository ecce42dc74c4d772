"""Output options of `prepare` that all data sets share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from data_pipelines.common.errors import InputError
from data_pipelines.common.xray_storage import LEAST_BITS, MOST_BITS


def _part(text: str) -> tuple[int, int]:
    """ "3/16" as (3, 16)."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise InputError(f"--part {text}: write K/N with K from 0 to N-1, for example --part $SLURM_ARRAY_TASK_ID/16")
    return int(number), int(count)


def _share(text: str) -> float:
    """ "0.1%" or "0.001" as 0.001. 1 is refused: one image, or one in a hundred, may be meant."""
    is_percent = text.endswith("%")
    try:
        share = float(text.removesuffix("%")) / (100 if is_percent else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1 or (share == 1 and not is_percent):
        raise InputError(f"--max-bad {text}: write a share, such as 0.1% or 0.001; 100% takes what can be read")
    return share


def _from_text(parse: Callable[[str], Any], metavar: str, show: Callable[[Any], str]) -> Any:
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: parse(words[0]),
        is_instance=lambda value: value is None or not isinstance(value, str),
        str_from_instance=lambda value: ["none" if value is None else show(value)],
    )


@dataclass(frozen=True)
class Output:
    """Where the prepared set goes."""

    out: Path
    """Folder to write; it must not exist."""
    force: bool = False
    """Replace an existing prepared set, once the new one is whole, and begin anew what was begun without --force."""
    max_bad: Annotated[float, _from_text(_share, "SHARE", str)] = 0.001
    """Fail when more than this share of the images cannot be decoded, and more than one: 0.1% or 0.001; 0 for none."""
    part: Annotated[tuple[int, int] | None, _from_text(_part, "K/N", "{0[0]}/{0[1]}".format)] = None
    """Do the K-th of N parts only (K from 0), as one task of an array job."""
    drop_duplicates: bool = False
    """Keep each picture once, by its bytes: in test if it is there, else in val, else in train."""
    bits: int | None = None
    """Of the pixels of X-rays in files that hold more than 8, such as 12 for 12-bit pixels in 16-bit PNG: 2^bits - 1 is
    white, in DICOM without a window too, whatever BitsStored says. None: as each file says (DICOM always does), else as
    is known of the set; where neither says it, all files are read once before, and the largest value of the set
    decides."""

    def __post_init__(self) -> None:
        if self.bits is not None and not LEAST_BITS <= self.bits <= MOST_BITS:
            raise InputError(f"--bits is {self.bits}; it must lie in {LEAST_BITS} to {MOST_BITS}")
