"""The version is that of the code that runs: of a source tree before that of an installed package."""

import runpy
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from data_pipelines.common import version as module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with a copy of the module that tells the version, in its package."""
    folder = tmp_path / "tree"
    (folder / "data_pipelines" / "common").mkdir(parents=True)
    shutil.copy(module.__file__, folder / "data_pipelines" / "common" / "version.py")
    return folder


def line_of(tree: Path) -> str:
    line: str = runpy.run_path(str(tree / "data_pipelines" / "common" / "version.py"))["version_line"]()
    return line


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an installation of version 7.8.9 leaves on sys.path."""
    (tmp_path / "site" / "bitscale-7.8.9.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "bitscale-7.8.9.dist-info" / "METADATA").write_text("Name: bitscale\nVersion: 7.8.9\n")
    monkeypatch.syspath_prepend(tmp_path / "site")


@pytest.mark.usefixtures("installed")
def test_a_source_tree_has_its_own_version(tree: Path) -> None:
    (tree / "pyproject.toml").write_text('[project]\nname = "bitscale"\nversion = "1.2.3"\n')
    assert line_of(tree) == "bitscale 1.2.3"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("other", [None, '[project]\nname = "other"\nversion = "1.2.3"\n'])
def test_an_installed_package_has_that_of_its_metadata(tree: Path, other: str | None) -> None:
    if other is not None:
        (tree / "pyproject.toml").write_text(other)
    assert line_of(tree) == "bitscale 7.8.9"


def test_a_bare_copy_has_no_version(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert line_of(tree) == "bitscale unknown"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.usefixtures("installed")
def test_a_clone_says_its_commit_and_whether_it_was_edited(tree: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *who, *arguments], cwd=tree, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    short = git("rev-parse", "HEAD")[:7]
    assert line_of(tree) == f"bitscale 7.8.9 (commit {short})"
    (tree / "data_pipelines" / "common" / "version.py").open("a").write("\n")
    assert line_of(tree) == f"bitscale 7.8.9 (commit {short}+changes)"
