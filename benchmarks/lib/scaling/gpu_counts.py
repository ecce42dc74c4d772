"""GPU counts from the command line: `1,4,8`, or `1,4,...,1024` to continue with the last ratio."""

from collections.abc import Sequence
from itertools import pairwise

from data_pipelines.common.errors import InputError

DOTS = ("...", "…")


def parse_counts(text: str) -> tuple[int, ...]:
    """Ascending counts of at least 1. Raises InputError for anything else, and for dots that no whole ratio of the two
    counts before them carries to the count after them."""
    words = [word.strip() for word in text.split(",")]
    counts: list[int] = []
    for place, word in enumerate(words):
        if word in DOTS:
            counts += _between(words, place, counts)
        else:
            counts.append(_count(word, text))
    for before, after in pairwise(counts):
        if after <= before:
            raise InputError(f"--gpus {text}: {after} comes after {before}; give ascending counts, each once")
    return tuple(counts)


def check_limit(counts: Sequence[int], most: int, where: str) -> None:
    """Raises InputError if there are not so many GPUs where the counts are to run."""
    if counts[-1] > most:
        raise InputError(f"--gpus goes to {counts[-1]}, but {where} has {most}; leave out what is above {most}")


def _count(word: str, text: str) -> int:
    if not word.isascii() or not word.isdigit() or int(word) < 1:
        raise InputError(
            f"--gpus {text}: {word or 'nothing'!r} is not a count of at least 1; write 1,4,8 or 1,4,...,1024"
        )
    return int(word)


def _between(words: list[str], place: int, counts: list[int]) -> list[int]:
    text = ",".join(words)
    if place < 2 or place + 2 != len(words) or any(word in DOTS for word in words[place - 2 : place]):
        raise InputError(
            f"--gpus {text}: dots stand before the last count, after two that show the ratio: 1,4,...,1024"
        )
    first, second, last = counts[-2], counts[-1], _count(words[-1], text)
    ratio, rest = divmod(second, first)
    if rest or ratio < 2:
        raise InputError(f"--gpus {text}: {second} is not a multiple of {first}, so the dots cannot go on")
    found = []
    while second * ratio < last:
        second *= ratio
        found.append(second)
    if second * ratio != last:
        raise InputError(
            f"--gpus {text}: going on by a factor of {ratio} gives {second} and {second * ratio}, but not {last}; "
            "end with one of these"
        )
    return found
