"""A bounded number of mutated inputs for every parser; `python -m tests.fuzz` tries as many as one likes."""

import json
import random
import sys
from pathlib import Path

import pytest
from fuzz import PARSERS, fuzz, main, try_one
from fuzz_locales import differences
from fuzz_mutations import mutated
from fuzz_parser import Parser

INPUTS, SEED = 20, 20261


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_mutated_inputs_are_taken_or_refused_with_a_message(name: str) -> None:
    report = fuzz(name, PARSERS[name], INPUTS, SEED)
    assert dict(report.findings) == {}, report.examples
    assert report.inputs in (INPUTS, INPUTS // 10)


@pytest.mark.slow
def test_the_locale_does_not_matter() -> None:
    assert differences(INPUTS, SEED)[0] == []


def bad_reader(kind: str, outside: Path) -> object:
    def read(path: Path) -> None:
        if path.read_bytes() == b"whole":
            return
        if kind == "crash":
            raise IndexError("out of range")
        if kind == "silent":
            from data_pipelines.common.errors import InputError

            raise InputError(" ")
        if kind == "write":
            outside.write_text("x")
        if kind == "remove":
            (path.parent.parent / "innocent").unlink()
        if kind == "start":
            import subprocess

            subprocess.run(["true"], check=False)

    return read


@pytest.mark.parametrize(
    ("kind", "finding"),
    [
        ("crash", "IndexError"),
        ("silent", "refused without a message"),
        ("write", "touched the outside: open of"),
        ("remove", "touched the outside: os.remove of"),
        ("start", "touched the outside: subprocess.Popen"),
    ],
)
def test_faults_of_a_parser_are_found(kind: str, finding: str, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "innocent").touch()
    parser = Parser(folder, [folder / "file"], bad_reader(kind, tmp_path / "outside"))  # type: ignore[arg-type]
    assert try_one(parser, b"whole", folder / "file") == "accepted"
    assert try_one(parser, b"damaged", folder / "file").startswith(finding)


def test_findings_are_printed_and_put_into_the_file_of_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def parser(folder: Path) -> Parser:
        (folder / "file").write_bytes(b"whole")
        return Parser(folder, [folder / "file"], bad_reader("crash", folder))  # type: ignore[arg-type]

    figures = tmp_path / "figures.json"
    monkeypatch.setitem(PARSERS, "plan", parser)
    monkeypatch.setattr(sys, "argv", ["fuzz", "--inputs", "5", "--only", "plan", "--figures", str(figures)])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "IndexError at " in capsys.readouterr().out
    found = json.loads(figures.read_text())["fuzz"]["plan"]
    assert found["inputs"] == 5 == found["accepted"] + sum(found["findings"].values())
    assert found["findings"]


def test_the_same_seed_makes_the_same_inputs() -> None:
    content = b'{"a": [1, 2], "b": {"c": null}}'
    inputs = [[mutated(content, random.Random(f"{seed} {i}"), i % 2 == 0) for i in range(50)] for seed in (1, 1, 2)]
    assert inputs[0] == inputs[1] != inputs[2]
    assert len(set(inputs[0])) > 40
