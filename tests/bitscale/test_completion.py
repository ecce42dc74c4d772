"""Completion in a real bash: subcommands, then sets and recipes, then flags."""

import shutil
import subprocess
from pathlib import Path

import pytest

from bitscale.completion import completion


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "bitscale.bash"
    path.write_text(completion("bash"))
    return path


@pytest.mark.parametrize(
    ("line", "offered", "not_offered"),
    [
        ("bitscale s", {"sweep", "status", "submit", "scaling"}, {"prepare"}),
        ("bitscale prepare im", {"image-folder", "imagenet1k", "imagenet21k"}, {"pets"}),
        ("bitscale prepare csv --t", {"--table", "--test-fraction"}, {"--root"}),
        ("bitscale pretrain embedded --optim.b", {"--optim.base-lr"}, {"--optim.momentum"}),
        ("bitscale pretrain embedded --data.no", {"--data.no-flip"}, {"--data.flip"}),
        ("bitscale transfer --pre", {"--pretrained", "--precision"}, {"--target"}),
        ("bitscale submit --no", {"--nodes", "--no-requeue"}, {"--time"}),
        ("bitscale predict runs/x im", set(), {"image-folder"}),
    ],
)
def test_bash_offers_what_fits(line: str, offered: set[str], not_offered: set[str], script: Path) -> None:
    words = line.split(" ")
    program = f"""
. {script}
complete -p bitscale >/dev/null || exit 3
COMP_WORDS=({" ".join(words)})
COMP_CWORD={len(words) - 1}
_bitscale
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert offered <= found
    assert found.isdisjoint(not_offered)


@pytest.mark.parametrize(("shell", "expected"), [("zsh", "bashcompinit"), ("fish", "-l optim.base-lr")])
def test_other_shells_read_their_script(shell: str, expected: str) -> None:
    text = completion(shell)
    assert expected in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)
