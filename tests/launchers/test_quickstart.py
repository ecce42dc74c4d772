"""quickstart.sh: pre-training sees no class of the near target, and both targets are fine-tuned alike."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_setup import LAUNCHERS, fake

from data_pipelines.datasets.catalog import find

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the launchers are bash scripts")
PYTHON = r"""case "$1" in
-) echo torch==9.9 ;;
esac"""
BITSCALE = r"""{ printf '%s\t' "$@"; echo; } >>$LOG"""


def commands(folder: Path, *arguments: str) -> list[list[str]]:
    """The commands of ours that the script starts, as words."""
    launchers = folder / "launchers"
    launchers.mkdir()
    for name in ("quickstart.sh", "setup.sh"):
        shutil.copy(LAUNCHERS / name, launchers)
    (folder / "constraints.txt").touch()
    (folder / "bin").mkdir()
    fake(folder / "bin", "python", PYTHON)
    fake(folder / "bin", "bitscale", BITSCALE)
    log = folder / "log"
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "VIRTUAL_ENV": str(folder), "LOG": str(log)}
    subprocess.run(["bash", launchers / "quickstart.sh", *arguments], env=environment, check=True, capture_output=True)
    lines = [line.rstrip("\t").split("\t") for line in log.read_text(encoding="utf-8").splitlines()]
    return [words for words in lines if words[0] != "prepare"]


def values(words: Sequence[str], flag: str) -> list[str]:
    """What stands behind a flag."""
    behind = list(words[words.index(flag) + 1 :])
    return behind[: next((at for at, word in enumerate(behind) if word.startswith("--")), len(behind))]


@pytest.mark.parametrize("arguments", [[], ["--short"]])
def test_pre_training_sees_no_class_of_the_near_target(tmp_path: Path, arguments: list[str]) -> None:
    pretrain, near, far, _ = commands(tmp_path, *arguments)
    seen, unseen = values(pretrain, "--data.classes"), values(near, "--data.classes")
    assert values(near, "--targets") == ["fashion_mnist"]
    manifest = json.loads((find("fashion_mnist") / "manifest.json").read_text(encoding="utf-8"))
    assert sorted(seen + unseen) == sorted(manifest["classes"])
    assert values(far, "--targets") == ["digits"]
    assert "--overlap-excluded" not in far


def test_both_targets_are_fine_tuned_alike(tmp_path: Path) -> None:
    _, near, far, report = commands(tmp_path, "--device", "cpu")
    own = [*values(near, "--data.classes"), "--data.classes", "--overlap-excluded"]
    assert [word for word in near if word not in own] == ["fashion_mnist" if word == "digits" else word for word in far]
    assert int(values(near, "--seeds")[0]) >= 3
    assert values(near, "--device") == ["cpu"]
    assert report[:2] == ["report", "runs"]


@pytest.mark.parametrize("script", ["quickstart.sh", "docs.sh"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_shown_and_nothing_installed(script: str, flag: str) -> None:
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", LAUNCHERS / script, flag], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"usage: launchers/{script} ")
    assert done.stderr == ""
