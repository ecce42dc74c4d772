"""Files of claims: what is read, and what is refused with which remedy."""

import re
from pathlib import Path

import pytest

from data_pipelines.common.errors import InputError
from trainer.reporting.analysis.claim_file import paper_claims, read_claims

CLAIM = """
[[claim]]
id = "data"
text = "More data is better."
cells = { model = "r50x1", target = ["pets", "covidx"], shots = [5, "full"] }
first = { source = "big" }
second = { source = "small" }
direction = "higher"
"""


def read(tmp_path: Path, text: str) -> object:
    path = tmp_path / "claims.toml"
    path.write_text(text)
    return read_claims(path)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "claims.toml"
    path.write_text('title = "mine"\n' + CLAIM + "margin = 1.5\n")
    file = read_claims(path)
    assert (file.title, file.claim[0].cells.shots, file.claim[0].margin) == ("mine", ("5", "full"), 1.5)
    assert file.claim[0].first.source == ("big",)


def test_the_example_of_the_docs_is_read(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[4] / "docs" / "claims.md"
    (example,) = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "claims.toml"
    path.write_text(example, encoding="utf-8")
    assert [claim.direction for claim in read_claims(path).claim] == ["higher", "equal"]


def test_the_papers_claims_have_a_place_and_a_label_each() -> None:
    file = paper_claims()
    assert len(file.claim) == 18
    assert len(file.summary) == 3
    assert all(claim.place and claim.group and claim.label for claim in file.claim)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'direction = "higher"',
            'dirction = "higher"',
            r"\(data\): unknown field 'dirction'; did you mean 'direction'",
        ),
        ('model = "r50x1"', 'modell = "r50x1"', r"cells: unknown field 'modell'; did you mean 'model'"),
        ("first = { source", "first = { sources", r"first: unknown field 'sources'; did you mean 'source'"),
        ("[[claim]]", "tilte = 1\n[[claim]]", r"claims.toml: unknown field 'tilte'; did you mean 'title'"),
        ('"higher"', '"hihger"', r"direction is 'hihger'; did you mean 'higher'"),
        ('"higher"', '"equal"', "needs a margin"),
        ('"higher"', '"higher"\nmargin = 0', "margin is 0; it must be a number of points above 0"),
        ('"higher"', '"higher"\npaired = 1', "paired must be true or false"),
        ('"higher"', '"inconsistent"\nstatistic = "spread"', "only direction .higher. or .lower. is tested"),
        ('source = "small"', 'source = "big"', "first and second are the same cells"),
        ('model = "r50x1"', 'source = "other"', "source is in cells and in first; leave out one of them"),
        ('target = ["pets", "covidx"], ', "", "neither cells nor first says a target; name some"),
        ('source = "small"', "source = 1.5", "source is 1.5; it must be a name, or a list of names"),
        ('id = "data"', "", "claim 1: it lacks id"),
        ('better."', "better.", "is not valid TOML"),
        ("[[claim]]", "[claim]", r"claim must be written as \[\[claim\]\]"),
        ('{ source = "big" }', '{ source = ["big", "mid"], source_size = "largest" }', r"add big = NUMBER below"),
        ("[[claim]]", "source_images = { big = true }\n[[claim]]", "source_images must be a section of numbers"),
    ],
)
def test_a_mistake_is_refused_with_its_place_and_remedy(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in CLAIM
    with pytest.raises(InputError, match=message):
        read(tmp_path, CLAIM.replace(old, new, 1))


def test_two_claims_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two claims have the id 'data'"):
        read(tmp_path, CLAIM + CLAIM)


def test_a_file_without_claims_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no claim"):
        read(tmp_path, 'title = "mine"')
    with pytest.raises(InputError, match=r"cannot be read: No such file.*name a TOML file of claims"):
        read_claims(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b'title = "\xe4"')
    with pytest.raises(InputError, match="it is not UTF-8"):
        read_claims(tmp_path / "latin.toml")
