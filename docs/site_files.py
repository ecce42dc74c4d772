"""A hook of MkDocs: the site has the pages of this repository at their own paths, and the files that they link to.

So README.md is the site's first page, and a link works on the site as it does in a checkout.
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "data_pipelines/datasets/README.md"]
FOLDERS = ["docs", "benchmarks/results"]
SHOWN = {".css", ".html", ".md", ".png", ".svg"}  # all else is given to browsers as text, which they show
LINK = re.compile(r"\]\(<?([^)\s>#]+)")
ELSEWHERE = re.compile(r"[a-z]+:")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's files, the pages, and what the pages link to."""
    folder = Path(config.docs_dir).resolve()
    themes = [file for file in files if file.src_dir is None or Path(file.src_dir).resolve() != folder]
    pages = [ROOT / name for name in PAGES]
    pages += [page for name in FOLDERS for page in sorted((ROOT / name).rglob("*.md"))]
    own = {*pages, *_linked(pages), *(ROOT / str(name) for name in config.extra_css)}
    return Files([*themes, *(_file(path, config) for path in sorted(own))])


def _linked(pages: list[Path]) -> set[Path]:
    """The files of the repository that pages link to."""
    aims = {
        Path(os.path.normpath(page.parent / unquote(target)))
        for page in pages
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if not ELSEWHERE.match(target)
    }
    return {aim for aim in aims if aim.is_file()}


def _file(path: Path, config: MkDocsConfig) -> File:
    name = path.relative_to(ROOT).as_posix()
    as_text = None if path.suffix in SHOWN else f"{name}.txt"
    return File(name, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=as_text)
