"""Import modules with nothing but what a machine for PyTorch has: `imports_of_a_bare_machine.py MODULE...`.

Prints JSON: each module's error, or null; and which installed packages were asked for in vain.
"""

import importlib
import importlib.metadata
import json
import re
import sys
from typing import Any

from packaging.requirements import Requirement

# PyTorch, timm and what such machines have beside them; then what bitscale needs in any case, small wheels all.
INSTALLED = ("torch", "torchvision", "timm", "scipy", "tensorboard", "optree", "hypothesis", "setuptools")
CARRIED = ("tyro", "simplejpeg", "nvidia-ml-py", "tomli")
WITHIN_OTHERS = ("nvidia.dali",)  # whose name many share
OURS = ("trainer", "data_pipelines", "benchmarks", "launchers")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def with_requirements(names: tuple[str, ...]) -> set[str]:
    """These distributions and all that they require here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonical(waiting.pop())
        if name in found:
            continue
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [
            requirement.name
            for requirement in map(Requirement, requirements)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    return found


class Hidden:
    """A finder that does not find what the bare machine lacks."""

    def __init__(self, finder: Any, present: set[str]) -> None:
        self._finder, self._present = finder, present
        self._owners = importlib.metadata.packages_distributions()
        self.asked: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        top = name.partition(".")[0]
        if name in WITHIN_OTHERS:
            self.asked.add(name)
            return None
        if top in self._owners and top not in OURS and not self._present & set(map(canonical, self._owners[top])):
            self.asked.add(top)
            return None
        return self._finder.find_spec(name, path, target)


def main() -> None:
    """Import what the command line names."""
    present = with_requirements(INSTALLED + CARRIED)
    hidden = [Hidden(finder, present) for finder in sys.meta_path]
    sys.meta_path[:] = hidden  # type: ignore[assignment]
    errors: dict[str, str | None] = {}
    for name in sys.argv[1:]:
        try:
            importlib.import_module(name)
            errors[name] = None
        except ImportError as error:
            errors[name] = str(error)
    print(json.dumps({"errors": errors, "asked": sorted(set().union(*(each.asked for each in hidden)))}))


if __name__ == "__main__":
    main()
