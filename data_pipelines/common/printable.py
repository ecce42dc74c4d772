"""Names as printable text: any bytes in a file, label or run name can be written, shown and told apart.

A name itself is kept as it is, wherever programs read it again; this is for people.
"""

import re
import textwrap
import unicodedata

_NONCHARACTERS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
# What no encoding has, what ends a line or gives commands to a terminal, and what is invisible or turns the text around
# it. Joiners stay: Persian, Hindi and emoji are spelt with them.
_ESCAPED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufdd0-\ufdef" + _NONCHARACTERS + "]"
)
_EDGES = re.compile(r"^\s+|\s+$")
_WIDE = "WF"


def printable(name: str) -> str:
    r"""The name, with what cannot be written or seen by its number: "Katze \xfc" of a folder whose name is no UTF-8 is
    "Katze \udcfc", and blanks at either end are \x20. Given the result again, returns it as it is."""
    return _EDGES.sub(_numbers, visible(name))


def visible(text: str) -> str:
    """The same for a text that may begin or end with a blank, such as part of a sentence."""
    return _ESCAPED.sub(_numbers, text)


def escape(character: str) -> str:
    r"""A character by its number: \x0a, \udcfc or \U0001f600."""
    number = ord(character)
    return f"\\x{number:02x}" if number < 1 << 8 else f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"


def _numbers(match: re.Match[str]) -> str:
    return "".join(map(escape, match[0]))


def width_of(text: str) -> int:
    """Display width of a text in columns, where East Asian characters count two and accents none."""
    return sum(2 if unicodedata.east_asian_width(c) in _WIDE else 0 if unicodedata.combining(c) else 1 for c in text)


def shortened(text: str, most: int) -> str:
    """A text shortened to about so many columns by leaving out its middle, since names often differ at the end."""
    if width_of(text) <= most:
        return text
    kept = max(1, _letters(text, most) - 1)
    end = kept // 3
    return f"{text[: kept - end].rstrip()}…{text[len(text) - end :].lstrip()}"


def wrapped(text: str, width: int, most_lines: int | None = None) -> str:
    """A text in lines of about so many columns; if there are more lines than allowed, the middle is left out."""
    if most_lines is None:
        return "\n".join(textwrap.wrap(text, _letters(text, width)))
    for most in range(width * most_lines, 0, -1):
        short = shortened(text, most)
        lines = textwrap.wrap(short, _letters(short, width))
        if len(lines) <= most_lines:
            break
    return "\n".join(lines)


def _letters(text: str, width: int) -> int:
    """How many of its letters fill some columns."""
    return max(1, width * len(text) // max(1, width_of(text)))
