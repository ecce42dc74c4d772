"""What a reader makes of its files; as a program, of every reader whose arguments a file has."""

import json
import sys
from pathlib import Path
from typing import Any

from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.registry import DATASETS


def contents(raw: RawSet) -> list[Any]:
    """The classes and images of a set in order, and those of its first and last part of three."""
    parts = [raw.part(number, 3) for number in (0, 2)] if raw.part else []
    listed = [
        (image.key, image.split, str(image.label), image.group) for some in (raw.images, *parts) for image in some
    ]
    return [raw.classes, listed]


def write_arguments(path: Path, arguments: dict[str, dict[str, Any]]) -> None:
    """The arguments of readers, by their names, as a file for this program."""
    path.write_text(json.dumps(arguments, default=lambda value: {"path": str(value)}))


def read_arguments(path: Path) -> dict[str, dict[str, Any]]:
    """What `write_arguments` wrote; tuples come as lists."""
    return json.loads(path.read_text(), object_hook=lambda found: Path(found["path"]) if "path" in found else found)


if __name__ == "__main__":
    arguments = read_arguments(Path(sys.argv[1]))
    print(json.dumps({name: contents(DATASETS[name](**given)) for name, given in arguments.items()}))
