"""Every command in README and docs is run as it is printed, in small sizes, or says what it needs that a test lacks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from page_commands import PAGES, ROOT, Block, blocks_of, inline_commands, made_small, script_of
from page_inputs import make_checkout, make_inputs


def name_of(page: Path) -> str:
    """How a page is called here: docs/data.md is data.md, but there are two README.md."""
    return "datasets/README.md" if page.parent.name == "datasets" else page.name


TEXTS = {name_of(page): page.read_text(encoding="utf-8") for page in PAGES}
# The others take minutes: BITSCALE_PAGES=all runs them, before a release.
QUICK = {"README.md", "data.md", "python.md", "recipes.md"}
RUN = [name for name, text in TEXTS.items() if any(block.needs is None for block in blocks_of(text))]
ALL_CODE = " ".join(
    " ".join(block.code.replace("\\\n", " ").split()) for text in TEXTS.values() for block in blocks_of(text)
)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="the commands are those of bash")
@pytest.mark.parametrize(
    "page",
    [
        page
        if page in QUICK or os.environ.get("BITSCALE_PAGES") == "all"
        else pytest.param(page, marks=pytest.mark.skip(reason="takes minutes; BITSCALE_PAGES=all runs it"))
        for page in RUN
    ],
)
def test_commands_of_a_page_run_as_printed(page: str, tmp_path: Path) -> None:
    make_checkout(tmp_path)
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "VIRTUAL_ENV": sys.prefix,
        "CUDA_VISIBLE_DEVICES": "",
    }
    environment.pop("BITSCALE_DATA", None)
    environment |= make_inputs(page, tmp_path, environment)
    done = subprocess.run(
        ["bash", "-exuo", "pipefail", "-c", script_of(blocks_of(TEXTS[page]))],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-5000:]


def test_pages_have_commands_of_both_kinds() -> None:
    blocks = [block for text in TEXTS.values() for block in blocks_of(text)]
    assert {"cluster", "a GPU", "licensed data"} <= {block.needs for block in blocks}
    assert len(RUN) >= 9
    assert sum(block.needs is None for block in blocks) >= 30


@pytest.mark.parametrize("page", TEXTS)
def test_whole_commands_stand_in_blocks(page: str) -> None:
    assert [command for command in inline_commands(TEXTS[page]) if command not in ALL_CODE] == []


def test_other_fences_hold_no_commands() -> None:
    for name, text in TEXTS.items():
        fences = [line for line in text.splitlines() if line.startswith("```") and line != "```"]
        assert set(fences) <= {"```bash", "```python", "```text", "```toml"}, name
        assert text.count("\n```") == 2 * len(fences), name


def test_extras_leave_the_installation_editable() -> None:
    assert [name for name, text in TEXTS.items() if "pip install '.[" in text] == []
    assert "pip install -e '.[dicom]'" in ALL_CODE


def test_the_quickstart_runs_before_a_change_lands() -> None:
    assert "launchers/quickstart.sh --short" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_a_marker_belongs_to_the_block_behind_it() -> None:
    text = "<!-- needs: a GPU -->\n```bash\na\n```\n\n```bash\nb\n```\n```text\nc\n```\n"
    assert blocks_of(text) == [Block("bash", "a\n", "a GPU"), Block("bash", "b\n", None)]
    assert script_of(blocks_of(text)) == "b\n"


def test_commands_in_prose_are_found() -> None:
    prose = "`bitscale predict` `bitscale x --flag` `bitscale report FILES --paper` `pip install '.[x]'`"
    assert inline_commands(f"{prose}\n```bash\npip install y\n```\n") == ["pip install '.[x]'"]


def test_long_commands_are_made_small() -> None:
    line = "bitscale sweep --seeds 3 --targets digits  # a remark"
    assert made_small(line) == "bitscale sweep --seeds 2 --targets digits --schedule.steps 2 --global-batch-size 4"
