"""Help texts are those that were read and approved; python -m tests.golden_help writes them anew."""

import pytest

from tests.golden_help import FOLDER, NAMES, help_of


@pytest.mark.parametrize("name", NAMES)
def test_help_is_as_it_was_approved(name: str) -> None:
    approved = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert help_of(name) == approved, "write it anew by python -m tests.golden_help, and read the difference"


def test_short_help_is_short() -> None:
    texts = {name: (FOLDER / f"{name}.txt").read_text(encoding="utf-8") for name in NAMES}
    assert {name: text.count("\n") for name, text in texts.items() if text.count("\n") > 80} == {}
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(NAMES)
