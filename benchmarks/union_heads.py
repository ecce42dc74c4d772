"""Ways to join sets that label in their own ways, on phantoms: python benchmarks/union_heads.py --out FILE.json

Three sets label two findings alike, one of their own each, and an effusion that one of them calls otherwise and another
labels only where it is large. The same images are trained on by intersection, union and heads.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.lib.results import header, write_result
from benchmarks.lib.union_heads.report import draw, summary, table
from benchmarks.lib.union_heads.study import ALONE, JOINS, Sizes, Study
from data_pipelines.common.cli import entry_point, parse
from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import logger


@dataclass(frozen=True)
class Settings:
    """How much to train, and where to."""

    out: Path
    """JSON file to write; beside it go a Markdown file and a figure."""
    work: Path = Path("union_heads")
    """Folder of the sets and runs; what is finished there is not done again."""
    threads: int = 1
    """CPU threads."""
    sizes: Sizes = field(default_factory=Sizes)

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise InputError(f"--threads is {self.threads}; it must be at least 1")
        if self.out.suffix != ".json":
            raise InputError(f"--out is {self.out}; give a name that ends with .json")


@entry_point
def main() -> None:
    """Parse the command line, train, and write what came of it after every seed."""
    settings = parse(Settings, __doc__)
    rows = []
    for row in Study(settings.work, settings.sizes, settings.threads).rows():
        rows.append(row)
        logger.info(f"{row['trained']}, seed {row['seed']}: fourth {row['fourth']}, {row.get('sources', '')}")
        if row["trained"] in (JOINS[-1], ALONE):
            found = header("union_heads") | {"sizes": asdict(settings.sizes), "summary": summary(rows), "rows": rows}
            write_result(settings.out, found, table(rows, settings.sizes))
            draw(rows, settings.out.parent, settings.out.stem)


if __name__ == "__main__":
    main()
