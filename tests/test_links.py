"""Links of the documents lead to files and headings that are there; what lies elsewhere is not asked for."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(path for folder in ("docs", "data_pipelines", "benchmarks", "trainer") for path in (ROOT / folder).rglob("*.md")),
]
FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\(<?([^)\s>]+)|^\[[^\]]+\]: *(\S+)|(?:href|src)=\"([^\"]+)\"", re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z]+:")
HEADING = re.compile(r"^#{1,6} +(.+?)[ #]*$", re.MULTILINE)


def links_of(text: str) -> list[str]:
    """The targets of a document's links, less those that name a scheme such as https."""
    targets = ("".join(found) for found in LINK.findall(CODE.sub("", FENCE.sub("", text))))
    return [target for target in targets if not ELSEWHERE.match(target)]


def anchors_of(text: str) -> set[str]:
    """The anchors of a document's headings, as code hosts make them."""
    anchors: dict[str, int] = {}
    for heading in HEADING.findall(FENCE.sub("", text)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        anchors[anchor] = anchors.get(anchor, -1) + 1
    return {anchor + (f"-{number}" if number else "") for anchor, last in anchors.items() for number in range(last + 1)}


def broken_links(path: Path) -> list[str]:
    """The links of a document that lead nowhere."""
    text = path.read_text(encoding="utf-8")
    return [target for target in links_of(text) if not _leads_somewhere(path, target)]


def _leads_somewhere(path: Path, target: str) -> bool:
    name, _, anchor = unquote(target).partition("#")
    aim = path.parent / name if name else path
    return aim.exists() and (not anchor or anchor in anchors_of(aim.read_text(encoding="utf-8")))


def test_there_are_documents() -> None:
    assert {"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "fidelity.md"} <= {
        path.name for path in DOCUMENTS
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    assert broken_links(path) == []


# Both lists lead to every page; a page that is in neither is found by chance alone.
@pytest.mark.parametrize(
    ("listing", "link"), [("README.md", r"\]\((docs/\w+\.md)"), ("mkdocs.yml", r": (docs/\S+\.md)$")]
)
def test_every_page_is_listed(listing: str, link: str) -> None:
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert len(pages) > 10
    assert pages - set(re.findall(link, (ROOT / listing).read_text(encoding="utf-8"), re.MULTILINE)) == set()


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a file.md").write_text("# It's *one* `word`\n```\n# not a heading\n```\n## Twice\n## Twice\n")
    page = tmp_path / "page.md"
    good = ["a%20file.md", "a%20file.md#its-one-word", "a%20file.md#twice-1", "#here", ".", "https://host/none"]
    bad = ["none.md", "a%20file.md#not-a-heading", "a%20file.md#twice-2", "#there"]
    text = "# Here\n" + "".join(f"[![see]({target})]({target})\n" for target in [*good, *bad])
    page.write_text(f'{text}[x]: gone.md\n<img src="gone.png">\n`[code](gone.md)`\n```\n[code](gone.md)\n```\n')
    assert broken_links(page) == [target for target in bad for _ in range(2)] + ["gone.md", "gone.png"]
