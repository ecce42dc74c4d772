"""A document as one self-contained HTML page. The template escapes whatever it prints."""

import base64
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from data_pipelines.common.printable import printable, visible
from trainer.document.blocks import Block, BulletList, Paragraph, Picture, Table, Title, p_text, without_limits
from trainer.document.text import Bold, Code, pieces

_REM_PER_INCH = 8.5  # figures are set in small print for paper; on a screen they may be larger
_KINDS: dict[str, type] = {
    "title": Title,
    "paragraph": Paragraph,
    "list": BulletList,
    "picture": Picture,
    "table": Table,
    "bold": Bold,
    "code": Code,
}


def as_page(blocks: list[Block], folder: Path) -> str:
    """The document as one HTML page; figures are read from `folder` and embedded."""
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=next(block.text for block in blocks if isinstance(block, Title)),
            blocks=[block for block in blocks if not isinstance(block, Paragraph) or block.on_page],
            svg=lambda picture: base64.b64encode((folder / f"{picture.name}.svg").read_bytes()).decode(),
            rem_per_inch=_REM_PER_INCH,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("trainer.document"),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"printable": printable, "pieces": pieces, "p_text": p_text, "limits": without_limits}
    environment.tests |= {name: lambda value, kind=kind: isinstance(value, kind) for name, kind in _KINDS.items()}
    return environment


def _visible(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
