"""A result of `bitscale proximity`: its numbers, and a page of its own."""

from pathlib import Path

from data_pipelines.common.earlier_output import require_free
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_atomically
from data_pipelines.common.messages import logger
from trainer.document.blocks import Table, Title
from trainer.document.html_page import as_page
from trainer.document.latex import latex
from trainer.document.markdown import as_markdown
from trainer.domain_distance.measure import measure
from trainer.domain_distance.proximity_file import NUMBERS, Distances, write_distances
from trainer.domain_distance.settings import Proximity
from trainer.reporting.names import target_title
from trainer.reporting.proximity_section import proximity_section
from trainer.reporting.proximity_words import title_of, value_text

PAGE = "proximity.html"


def write_proximity(settings: Proximity) -> Path:
    """Measure, write proximity.json and the page as HTML, Markdown and LaTeX, and say which source is nearest; returns
    the path of the page. Raises InputError as `measure` does."""
    require_free(settings.out / NUMBERS, settings.force)
    found = measure(settings)
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
        blocks = [Title("Proximity", 1), *proximity_section(found, settings.out)[1:]]
        _write(settings.out / PAGE, as_page(blocks, settings.out))
        _write(settings.out / "proximity.md", as_markdown(blocks))
        _write(settings.out / "tables.tex", latex([block for block in blocks if isinstance(block, Table)]))
        write_distances(found, settings.out / NUMBERS)
    except OSError as error:
        raise InputError(f"{settings.out} cannot be written ({error}); choose another --out") from error
    for note in found.notes:
        logger.info(f"note: {note}")
    _say_nearest(found)
    return settings.out / PAGE


def _say_nearest(found: Distances) -> None:
    """The sources of each target by their kernel distance, the nearest first."""
    pairs = found.of("common", "kernel") or found.of("random", "kernel")
    for target in found.targets:
        ordered = sorted((pair for pair in pairs.values() if pair.target == target), key=lambda pair: pair.value)
        texts = [f"{title_of(pair.source)} {value_text(pair)}" for pair in ordered]
        logger.info(f"{target_title(target)}, nearest first by kernel distance: {'; '.join(texts)}")


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
