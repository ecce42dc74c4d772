"""Any name can be written, shown and given to a file, and is told from others."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nasty_names import names

from data_pipelines.common.file_names import own_file_name_of
from data_pipelines.common.printable import printable, shortened, visible, width_of, wrapped


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Katze \udcfc", "Katze \\udcfc"),
        ("a\nb\tc\x1b[31m", "a\\x0ab\\x09c\\x1b[31m"),
        ("\u202eabc\u2028\ufeff\uffff", "\\u202eabc\\u2028\\ufeff\\uffff"),
        (" ", "\\x20"),
        ("cat \u3000", "cat\\x20\\u3000"),
        ("$5_bill", "$5_bill"),
        ("猫 😀 e\u0301 शृ می\u200cخواهم", "猫 😀 e\u0301 शृ می\u200cخواهم"),
        ("a\u00a0b", "a\u00a0b"),
    ],
)
def test_what_cannot_be_seen_is_said_by_its_number(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_a_part_of_a_sentence_keeps_its_blanks() -> None:
    assert visible(" of \udcfc ") == " of \\udcfc "


@given(names())
def test_any_name_is_text_on_one_line(name: str) -> None:
    shown = printable(name)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    assert shown == shown.strip()
    assert not {"Cc", "Cs", "Zl", "Zp"} & set(map(unicodedata.category, shown))
    assert printable(shown) == shown


@given(names())
def test_any_name_makes_a_file_name(name: str) -> None:
    found = own_file_name_of(name)
    assert found.isascii()
    assert 0 < len(found) <= 100
    assert Path(found).name == found
    assert not set(found) & set("/\\\0 $'\"")
    assert found[0] not in ".-"


def test_names_of_files_are_told_apart() -> None:
    assert own_file_name_of("padchest_cl-2.0") == "padchest_cl-2.0"
    alike = ["a b", "a_b", "a/b", "a\udcfcb", "a\udcfdb", "猫", "犬", "..", ".", "", "x" * 300, "x" * 301]
    assert len({own_file_name_of(name) for name in alike}) == len(alike)


@given(names(), st.integers(4, 40), st.integers(1, 3))
def test_texts_fit_their_place(text: str, width: int, lines: int) -> None:
    shown = printable(text)
    assert width_of(shortened(shown, width)) <= width + 2
    assert len(wrapped(shown, width, lines).splitlines()) <= lines
    if width_of(shown) <= width:
        assert shortened(shown, width) == shown


def test_a_short_name_keeps_its_ends() -> None:
    assert shortened("pneumonia_viral_left_lung", 16) == "pneumonia_…_lung"
    assert wrapped("said pneumonia_viral_of_the_left_lower_lobe_and_more 0.93", 20, 2).endswith("0.93")
    assert shortened("猫" * 10, 10) == "猫猫猫…猫"
