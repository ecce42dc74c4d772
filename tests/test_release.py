"""A release: one version everywhere, complete wheels, types in every file, and hooks that download nothing."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_pipelines.common.version import version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = SETTINGS["project"]
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
RELEASES = re.findall(r"^## (\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
PACKAGES = ("bitscale", "trainer", "data_pipelines", "benchmarks", "launchers")
NOT_SHIPPED = re.compile(r"benchmarks/results/|benchmarks/on_gpu\.sh|data_pipelines/datasets/README\.md|.*\.pyc")


def test_changelog_and_citation_have_the_version() -> None:
    assert RELEASES[0] == (PROJECT["version"], str(CITATION["date-released"]))
    assert str(CITATION["version"]) == PROJECT["version"] == version()
    dates = [date for _, date in RELEASES]
    assert dates == sorted(dates, reverse=True)


def test_citation_has_the_keys_that_its_format_requires() -> None:
    assert CITATION["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= CITATION.keys()
    assert CITATION["license"] == PROJECT["license"]
    (paper,) = CITATION["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert [author["family-names"] for author in paper["authors"]] == ["Cherti", "Jitsev"]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files that a wheel holds."""
    folder = tmp_path_factory.mktemp("build")
    command = ["egg_info", "--egg-base", str(folder), "build_py", "--build-lib", str(folder / "lib")]
    subprocess.run(
        [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", *command],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return {path.relative_to(folder / "lib").as_posix() for path in (folder / "lib").rglob("*") if path.is_file()}


def test_a_wheel_holds_every_file_of_the_packages(shipped: set[str]) -> None:
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    files = {path.relative_to(ROOT).as_posix() for path in paths}
    assert shipped - files == set()
    assert {name for name in files - shipped if not NOT_SHIPPED.match(name)} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_is_marked_as_typed(package: str, shipped: set[str]) -> None:
    assert f"{package}/py.typed" in shipped


def test_hooks_download_nothing() -> None:
    assert [entry["repo"] for entry in HOOKS] == ["local"]
    for hook in HOOKS[0]["hooks"]:
        assert (hook["language"], hook.get("additional_dependencies", [])) == ("system", [])
        assert hook["entry"].startswith("python -m ")


def test_only_triton_kernels_may_lack_types() -> None:
    mypy = SETTINGS["tool"]["mypy"]
    assert mypy["disallow_untyped_defs"]
    assert sorted(mypy["packages"]) == sorted(PACKAGES)
    (exempt,) = mypy["overrides"]
    kernels = [
        path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "@triton.jit" in path.read_text()
    ]
    assert exempt["module"] == sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in kernels)
