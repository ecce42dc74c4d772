"""Names as text in figures: no mathtext, and a font that has the characters."""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.legend import Legend

from data_pipelines.common.printable import escape, printable

_BOXES = "Last Resort"  # a font that has a box for every character
_REGULAR = 400


def text_style(names: Iterable[str]) -> dict[Any, Any]:
    """matplotlib settings for figures with these names: no dollar sign starts a formula, and characters that the usual
    font lacks are drawn in another."""
    missing = {character for name in names for character in printable(name)} - _usual("normal")
    families, found = [], _fonts()
    while missing and found:
        family = max(sorted(found), key=lambda family: len(found[family] & missing))
        if not found[family] & missing:
            break
        families.append(family)
        missing -= found[family]
    return {"text.parse_math": False, "font.family": [*matplotlib.rcParams["font.family"], *families]}


def drawable(name: str) -> str:
    """A name for a figure: characters that no installed font has are shown by their number."""
    text = printable(name)
    known = _every() if set(text) - _usual("normal") else _usual("normal")
    return "".join(character if character in known else escape(character) for character in text)


def bold(name: str) -> str:
    """Font weight for a bold name: "normal" if it has characters that the usual font lacks in bold."""
    return "bold" if set(printable(name)) <= _usual("bold") else "normal"


def legend(place: Figure | Axes, handles: Sequence[Artist], labels: Sequence[str], **options: Any) -> Legend:
    """A legend with all of these labels, including those that begin with an underscore."""
    drawn = place.legend(list(handles), [str(number) for number in range(len(labels))], **options)
    for text, label in zip(drawn.get_texts(), labels, strict=True):
        text.set_text(drawable(label))
    return drawn


@cache
def _usual(weight: str) -> frozenset[str]:
    family = matplotlib.rcParams["font.family"]
    return _characters(font_manager.findfont(font_manager.FontProperties(family=family, weight=weight)))


@cache
def _every() -> frozenset[str]:
    return _usual("normal").union(*_fonts().values())


@cache
def _fonts() -> dict[str, frozenset[str]]:
    """The characters of each family that is installed, of its upright and regular font."""
    by_family: dict[str, list[font_manager.FontEntry]] = {}
    for font in font_manager.fontManager.ttflist:
        by_family.setdefault(font.name, []).append(font)
    return {
        name: _characters(min(fonts, key=_unlike_regular).fname)
        for name, fonts in by_family.items()
        if not name.startswith(_BOXES)
    }


def _unlike_regular(font: font_manager.FontEntry) -> tuple[bool, bool, float]:
    weight = font_manager.weight_dict.get(str(font.weight), font.weight)
    return font.style != "normal", font.stretch != "normal", abs(float(weight) - _REGULAR)


@cache
def _characters(path: str) -> frozenset[str]:
    try:
        font = FT2Font(path)
        numbers = font.get_charmap() if font.scalable else ()  # pictures of fixed sizes cannot be drawn
    except (RuntimeError, OSError):
        return frozenset()
    return frozenset(c for c in map(chr, numbers) if unicodedata.category(c) != "Co")  # other signs in each font
