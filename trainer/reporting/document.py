"""A report as blocks, and its two forms: report.md beside its figures, and report.html, which stands alone."""

import base64
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.common.printable import printable
from trainer.reporting.figures import Picture
from trainer.reporting.tables import Table
from trainer.reporting.words import Text, html_text, html_words, markdown_text, markdown_words
from trainer.reporting.writers import as_html, markdown

_CSS = """
body { font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 76rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.3rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1.05rem; margin-top: 1.8rem; }
figure { margin: 1.2rem 0 1.8rem; overflow-x: auto; } figure img { max-width: 100%; height: auto; }
figcaption { margin-bottom: .5rem; color: #333; max-width: 60rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; border: solid; border-width: 2px 0; }
thead tr:last-child { border-bottom: 1px solid; }
th, td { padding: .3rem .75rem; text-align: right; vertical-align: top; white-space: nowrap; font-weight: normal; }
th[scope=row], tr th:first-child { text-align: left; } th.group { text-align: center; border-bottom: 1px solid #999; }
th.long { white-space: normal; overflow-wrap: anywhere; min-width: 12rem; max-width: 30rem; }
td small { display: block; font-size: .72rem; line-height: 1.25; color: #666; white-space: normal; max-width: 8rem;
  margin-left: auto; }
tr.paper { background: #f5f5f5; } .note { font-size: .82rem; color: #444; margin: .4rem 0 0; max-width: 60rem; }
.warning { border-left: 4px solid #d55e00; background: #fdf3ec; padding: .5rem .9rem; margin: .6rem 0; }
h1, h2, p, li, figcaption { overflow-wrap: anywhere; }
@media print { body { max-width: none; margin: 0; font-size: 10pt; } figure, table { break-inside: avoid; } }
"""
_REM_PER_INCH = 8.5  # figures are set in small print for paper; on a screen they may be larger


@dataclass(frozen=True)
class Title:
    """A heading; level 1 is the report's own."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Words:
    """A paragraph. on_page: it is part of the page too."""

    text: Text
    warning: bool = False
    on_page: bool = True


@dataclass(frozen=True)
class Items:
    """A list of such paragraphs."""

    texts: tuple[Text, ...]


Block = Title | Words | Items | Table | Picture


def as_markdown(blocks: list[Block]) -> str:
    """The report as Markdown; its figures are files beside it."""
    parts = []
    for block in blocks:
        if isinstance(block, Title):
            parts.append(f"{'#' * block.level} {markdown_text(printable(block.text))}")
        elif isinstance(block, Words):
            parts.append(markdown_words(block.text))
        elif isinstance(block, Items):
            parts.append("\n".join(f"- {markdown_words(text)}" for text in block.texts))
        elif isinstance(block, Picture):
            parts.append(f"![{markdown_text(block.caption, in_brackets=True)}]({block.name}.png)")
        else:
            parts += [markdown_words(block.caption), "\n".join(markdown(block))]
            parts += [markdown_words(" ".join(block.notes))] if block.notes else []
    return "\n\n".join(parts) + "\n"


def as_page(blocks: list[Block], folder: Path) -> str:
    """The report as one HTML page; the figures are read from `folder` and become part of it."""
    title = next(block.text for block in blocks if isinstance(block, Title))
    body = "\n".join(_block_html(block, folder) for block in blocks if not isinstance(block, Words) or block.on_page)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html_text(title)}</title>\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<style>{_CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _block_html(block: Block, folder: Path) -> str:
    if isinstance(block, Title):
        return f"<h{block.level}>{html_text(printable(block.text))}</h{block.level}>"
    if isinstance(block, Words):
        return f"<p{' class=warning' if block.warning else ''}>{html_words(block.text)}</p>"
    if isinstance(block, Items):
        return "\n".join(["<ul>", *(f"<li>{html_words(text)}</li>" for text in block.texts), "</ul>"])
    if isinstance(block, Picture):
        data = base64.b64encode((folder / f"{block.name}.svg").read_bytes()).decode()
        caption = html_text(block.caption)
        width = f"{block.width * _REM_PER_INCH:g}rem"
        image = f'<img alt="{caption}" style="width:{width}" src="data:image/svg+xml;base64,{data}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    return as_html(block)
