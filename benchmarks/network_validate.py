"""Compare the model of the network with measurements: python benchmarks/network_validate.py [--parts paper wire here]

Against the paper's Figure 4b, against links of a known bandwidth, and one against two CPU ranks of this machine.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.lib.network.against_paper import against_paper
from benchmarks.lib.network.wire import measure_wire
from benchmarks.lib.results import header
from benchmarks.lib.scaling.study import measure_two_cores
from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_json

Part = Literal["paper", "wire", "here"]


@dataclass(frozen=True)
class Validation:
    """Which comparisons, and where their result goes."""

    parts: tuple[Part, ...] = get_args(Part)
    """Comparisons to make."""
    worlds: tuple[int, ...] = (2, 4, 8)
    """Ranks of the comparison with a wire."""
    window_steps: int = 20
    """Steps of a window of the comparison here."""
    out: Path = Path("network.json")
    """JSON file to write."""

    def __post_init__(self) -> None:
        if unknown := set(self.worlds) - {2, 4, 8}:
            raise InputError(f"--worlds {' '.join(map(str, sorted(unknown)))}: there are links for 2, 4 and 8 ranks")


@entry_point
def main() -> None:
    """Parse the command line, compare, and write the JSON file."""
    settings = parse(Validation, __doc__)
    result: dict[str, Any] = header("network")
    if "paper" in settings.parts:
        result["paper"] = against_paper()
    if "wire" in settings.parts:
        result["wire"] = measure_wire(settings.worlds)
    if "here" in settings.parts:
        result["here"] = measure_two_cores(settings.window_steps)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, result)
    for part in ("paper", "wire"):
        if part in result:
            print(f"{part}: {'met' if result[part]['met'] else 'MISSED'}")
    print(settings.out)


if __name__ == "__main__":
    main()
