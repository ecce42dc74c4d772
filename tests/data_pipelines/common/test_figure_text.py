"""Figures show names as they are: no formula, no hidden label, no box in place of a letter, and no warning."""

import warnings
import xml.etree.ElementTree as ElementTree
from io import BytesIO

import pytest
from hypothesis import Phase, given, settings
from hypothesis.strategies import lists
from matplotlib import pyplot as plt
from matplotlib.text import Text
from nasty_names import NAMES, names

from data_pipelines.common import figure_text
from data_pipelines.common.figure_text import bold, drawable, legend, text_style

OF_ANOTHER_FONT = "\u1d81"  # a letter that DejaVu Sans lacks, and STIX has; matplotlib brings both


def drawn(shown: tuple[str, ...]) -> list[str]:
    """The texts of a figure with these names in a legend, a title and beside an axis; it is drawn in both formats."""
    with warnings.catch_warnings(), plt.rc_context(text_style(shown)):
        warnings.simplefilter("error")
        figure, axes = plt.subplots(figsize=(12, 8))
        lines = [axes.plot([0, 1])[0] for _ in shown]
        legend(axes, lines, shown)
        axes.set_title(drawable(shown[0]), weight=bold(shown[0]))
        axes.set_yticks(range(len(shown)), [drawable(name) for name in shown])
        vector = BytesIO()
        figure.savefig(BytesIO(), format="png", dpi=20)
        figure.savefig(vector, format="svg")
    ElementTree.fromstring(vector.getvalue())
    texts = [text.get_text() for text in figure.findobj(Text)]
    plt.close(figure)
    return texts


def test_names_are_taken_literally() -> None:
    texts = drawn(NAMES)
    for name in NAMES:
        assert texts.count(drawable(name)) >= 2
    assert {"$5_bill_$10_bill", "_none", "Katze \\udcfc", "\\x20", "{0} %s %(x)d \\n"} <= set(texts)


@settings(max_examples=5, deadline=None, phases=[Phase.generate])
@given(lists(names(1), min_size=5, max_size=5))
def test_any_names_can_be_drawn(shown: list[str]) -> None:
    texts = drawn(tuple(shown))
    assert all(texts.count(drawable(name)) >= 2 for name in shown)


def test_another_font_has_what_the_usual_one_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert text_style(["cat"])["font.family"] == ["sans-serif"]
    assert text_style([f"cat {OF_ANOTHER_FONT}"])["font.family"] == ["sans-serif", "STIXGeneral"]
    assert drawable(OF_ANOTHER_FONT) == OF_ANOTHER_FONT
    assert (bold("cat"), bold(OF_ANOTHER_FONT)) == ("bold", "normal")
    monkeypatch.setattr(figure_text, "_fonts", dict)
    monkeypatch.setattr(figure_text, "_every", lambda: figure_text._usual("normal"))
    assert text_style([OF_ANOTHER_FONT])["font.family"] == ["sans-serif"]
    assert drawable(f"cat {OF_ANOTHER_FONT}") == "cat \\u1d81"
