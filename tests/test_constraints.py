"""The tested versions in constraints.txt can be installed by every Python that the package promises."""

from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def pythons_of(pin: Requirement) -> list[str]:
    """Those that a line is for."""
    return [python for python in PYTHONS if pin.marker is None or pin.marker.evaluate({"python_version": python})]


def refused_by(pin: Requirement) -> list[str]:
    """Of these, those that the version does not take; none where another version is installed here, or none."""
    try:
        installed = metadata(pin.name)
    except PackageNotFoundError:
        return []
    takes = SpecifierSet(installed.get("Requires-Python") or "")
    # A patch version as high as they come: some packages leave out the first ones.
    pythons = pythons_of(pin) if pin.specifier.contains(installed["Version"]) else []
    return [f"{pin.name} {takes}: {python}" for python in pythons if not takes.contains(f"{python}.99")]


def test_tested_versions_take_the_pythons_of_their_line() -> None:
    """A version that needs a newer Python leaves an older version to the others, in a line of its own."""
    assert [refused for pin in PINS for refused in refused_by(pin)] == []


def test_every_python_has_one_tested_version_of_each_package() -> None:
    pinned = [(pin.name, python) for pin in PINS for python in pythons_of(pin)]
    assert len(pinned) == len(set(pinned))
    assert [pin.name for pin in PINS] == sorted(pin.name for pin in PINS)
