"""Help texts are those that were read and approved; python -m tests.golden_help writes them anew."""

import pytest

from tests.golden_help import FOLDER, NAMES, help_of


def comparable(text: str) -> tuple[list[str], str]:
    """The words of the usage, whose lines Python 3.13 breaks elsewhere, and what follows."""
    usage, _, others = text.partition("\n\n")
    return usage.split(), others


@pytest.mark.parametrize("name", NAMES)
def test_help_is_as_it_was_approved(name: str) -> None:
    approved, found = (FOLDER / f"{name}.txt").read_text(encoding="utf-8"), help_of(name)
    assert comparable(found) == comparable(approved), "write it anew: python -m tests.golden_help"


def test_short_help_is_short() -> None:
    texts = {name: (FOLDER / f"{name}.txt").read_text(encoding="utf-8") for name in NAMES}
    assert {name: text.count("\n") for name, text in texts.items() if text.count("\n") > 80} == {}
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(NAMES)
