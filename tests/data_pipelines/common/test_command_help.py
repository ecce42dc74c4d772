"""Short help keeps to the width of the terminal."""

import pytest

from data_pipelines.common.command_help import first_sentence, grouped_help

GROUPS = {"sets": {"pets": "cats and dogs of thirty-seven breeds in photographs", "flowers102": ""}, "more": {"x": "y"}}


@pytest.mark.parametrize(("columns", "widest"), [(20, 40), (60, 59), (400, 100)])
def test_lines_fit_the_terminal(columns: int, widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = grouped_help("usage: x", GROUPS, after="word " * 60)
    assert 40 - 12 < max(map(len, text.splitlines())) <= widest
    assert " ".join(text.split()).startswith(
        "usage: x sets: pets cats and dogs of thirty-seven breeds in photographs flowers102 more: x y word word"
    )


def test_lines_of_all_groups_begin_in_one_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = grouped_help("usage: x", GROUPS).splitlines()
    assert [line.index(word) for line in lines for word in ("cats", " y") if word in line] == [14, 13]


def test_a_long_name_stands_above_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert grouped_help("u", {"g": {"n" * 50: "what it is"}}).splitlines()[3:] == [
        "  " + "n" * 50,
        " " * 33 + "what it is",
    ]


def test_the_first_sentence_is_one_line() -> None:
    assert first_sentence("Demo: r14x0.5 on\n    images. And more.\n\nLast.") == "Demo: r14x0.5 on images"
    assert first_sentence("PadChest: X-rays of\n    adults (Bustos et al. 2020).") == "PadChest: X-rays of adults"
    assert first_sentence(None) == ""
