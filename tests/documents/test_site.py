"""The site of README and docs: it builds, its links lead somewhere, and it loads nothing from elsewhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from page_commands import ROOT

pytest.importorskip("material", reason="the site needs the extra docs")
COPIED = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "LICENSE", "mkdocs.yml")
LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*?\bsrc=["']?([^"'\s>]+)|<link\b[^>]*?\bhref=["']?([^"'\s>]+)"""
)
IN_STYLES = re.compile(r"""(?:url\(|@import )["']?(?!data:)([^"')]+)""")
ELSEWHERE = re.compile(r"(?:[a-z]+:)?//")


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a checkout, as launchers/docs.sh does."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_has_the_pages_and_what_they_link_to(site: Path) -> None:
    names = {path.relative_to(site).as_posix() for path in site.rglob("*")}
    pages = {"index.html", *(f"docs/{page.stem}.html" for page in (ROOT / "docs").glob("*.md"))}
    linked = {"LICENSE.txt", "trainer/training/loop.py.txt", "benchmarks/results/quickstart/targets.png"}
    assert pages | linked <= names


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = [path for path in site.rglob("*.html") if "benchmarks/results" not in path.as_posix()]
    loaded = {"".join(found) for page in pages for found in LOADED.findall(page.read_text(encoding="utf-8"))}
    styles = {found for path in site.rglob("*.css") for found in IN_STYLES.findall(path.read_text(encoding="utf-8"))}
    assert any(name.endswith(".js") for name in loaded)
    assert {name for name in loaded | styles if ELSEWHERE.match(name)} == set()


@pytest.mark.slow
def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    for name in COPIED:
        shutil.copy(ROOT / name, tmp_path)
    for name in ("benchmarks", "data_pipelines", "launchers", "trainer"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (tmp_path / "docs" / "data.md").open("a", encoding="utf-8") as page:
        page.write("\n[none](none.md) [heading](recipes.md#none)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert "'none.md'" in done.stderr
    assert "#none" in done.stderr
