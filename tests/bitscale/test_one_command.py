"""`bitscale` runs its subcommands, shows their help without slow imports, and says what is near to a wrong word."""

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from started_program import FRONT, ROOT, started

from bitscale import cli
from bitscale.commands import SUBCOMMANDS

Typed = Callable[..., tuple[int, str, str]]


def code_of(program: Callable[[], object]) -> int:
    """The exit code of a program that is run in this process."""
    try:
        program()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Typed:
    """A function that runs `bitscale WORD ...` in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/bitscale", *words])
        code = code_of(cli.main)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


WRONG = [
    (["swep"], "unknown subcommand 'swep'; did you mean 'sweep'?"),
    (["hlep"], "unknown subcommand 'hlep'; did you mean 'help'?"),
    (["--verison"], "unknown flag '--verison'; did you mean '--version'?"),
    (["--completion", "tcsh"], "--completion takes one shell of bash, zsh, fish"),
    (["prepare", "pet"], "unknown data set 'pet'; did you mean 'pets'?"),
    (["prepare", "--lst"], "unknown flag '--lst'; did you mean '--list'?"),
    (["prepare", "--list", "pets"], "--list takes nothing behind it; what a set takes: bitscale prepare NAME --help"),
    (["prepare", "pets", "--rot", "x"], "unknown flag --rot; did you mean --root?"),
    (["prepare", "pets"], "--out and --root must be given; bitscale prepare pets --help tells more"),
    (["inspect"], "DATA must be given; bitscale inspect --help tells more"),
    (["pretrain", "embedded", "--base-lr", "1"], "unknown flag --base-lr; did you mean --optim.base-lr?"),
    (["pretrain", "embedded", "--data.sets", "digits"], "with: bitscale prepare digits --out data/digits"),
    (["transfer", "--pretained", "x"], "unknown flag --pretained; did you mean --pretrained?"),
    (["transfer"], "--pretrained and --target must be given; bitscale transfer --help tells more"),
    (["sweep", "--sources", "x"], "--targets must be given; bitscale sweep --help tells more"),
    (["report", "--ouf", "x"], "unknown flag --ouf; did you mean --out?"),
    (["evaluate"], "RUN must be given; bitscale evaluate --help tells more"),
    (["predict", "run"], "must be given; bitscale predict --help tells more"),
    (["export", "run"], "--out must be given; bitscale export --help tells more"),
    (["status", "--jsn"], "unknown flag --jsn; did you mean --json?"),
    (["submit", "pretrain", "embedded", "--nods", "2"], "unknown argument --nods; did you mean '--nodes'?"),
    (["submit"], "the following arguments are required: what"),
    (
        ["scaling", "--engines", "dpp"],
        "--engines is 'dpp', which is none of ddp, horovod, deepspeed; did you mean ddp?",
    ),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_a_wrong_word_is_answered_in_one_line(words: list[str], message: str, typed: Typed, tmp_path: Path) -> None:
    code, output, error = typed(*words)
    assert (code, output, error.count("\n")) == (2, "", 1)
    assert error.startswith("error: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_a_subcommand_loads_is_no_traceback(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(module: str) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", interrupt)
    assert typed("transfer") == (130, "", "interrupted\n")


def test_help_can_be_asked_for_as_a_subcommand(typed: Typed) -> None:
    assert typed("help", "status") == typed("status", "--help")
    assert typed("help") == typed() == typed("--help")


def test_every_version_flag_answers_alike(typed: Typed) -> None:
    code, output, error = typed("--version")
    assert (code, output.split()[0], error) == (0, "bitscale", "")
    assert all(typed(name, "--version") == (code, output, error) for name in SUBCOMMANDS)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("module", ["bitscale", *sorted({each.module for each in SUBCOMMANDS.values()})])
def test_every_module_runs_by_its_name(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    assert not code_of(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))
    assert capsys.readouterr().out.count("--") > 1


SCRIPTS = [
    ("trainer/pretrain.py", ["embedded", "--plan"], '"total_steps": 1200'),
    ("trainer/transfer.py", ["--help"], "--pretrained STR"),
    ("benchmarks/scaling.py", ["--gpus", "1,4,...,1024", "--help"], "1,4,...,1024"),
]


@pytest.mark.parametrize(("script", "arguments", "expected"), SCRIPTS, ids=[row[0] for row in SCRIPTS])
def test_promised_scripts_run(
    script: str,
    arguments: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As one of the ranks that `torchrun --nnodes 64 SCRIPT` starts."""
    for name, value in {"RANK": "255", "WORLD_SIZE": "256", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    assert not code_of(lambda: runpy.run_path(str(ROOT / script), run_name="__main__"))
    assert expected in capsys.readouterr().out


def test_every_subcommand_has_a_row_in_the_page() -> None:
    page = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    assert {*re.findall(r"^\| `bitscale (\w+)` \|", page, re.MULTILINE)} == SUBCOMMANDS.keys()


# Each takes from a tenth of a CPU-second to some; what the help of a subcommand may import all the same.
SLOW = {"torch", "torchvision", "triton", "scipy", "sklearn", "pandas", "matplotlib", "jinja2", "nvidia.dali"}
NEEDED = {"prepare": {"pandas"}, "inspect": {"matplotlib"}}


def test_help_imports_no_framework(tmp_path: Path) -> None:
    asked = [[], ["pretrain", "embedded"], *([name] for name in sorted(SUBCOMMANDS, key=NEEDED.__contains__))]
    code = f"""
import sys
from bitscale import cli
for words in {asked}:
    sys.argv = ["bitscale", *words, "--help"]
    before = set(sys.modules)
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code
    slow = {SLOW} & set(sys.modules) - before - {NEEDED}.get(" ".join(words), set())
    assert not slow, (words, slow)
    assert words or "numpy" not in sys.modules
"""
    done = started([sys.executable, "-c", code], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", ["--help", "status --help", "submit --help", "prepare --help"])
def test_a_reader_that_leaves_ends_it_quietly(words: str, tmp_path: Path) -> None:
    done = started(["bash", "-c", f"{' '.join(FRONT)} {words} | sleep 0"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_home_that_cannot_be_written_is_no_matter(tmp_path: Path) -> None:
    done = started([*FRONT, "inspect", "--help"], tmp_path, HOME="/proc/none")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
