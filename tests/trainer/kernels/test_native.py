"""The C++ kernels are compiled once, for this processor, by any number of processes at once; or not, with a reason."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from trainer.kernels import group_norm_relu, native
from trainer.models.bit import build_model

COMPILER = shutil.which("c++") or shutil.which("g++")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    yield tmp_path / "bitscale"
    native.library.cache_clear()
    group_norm_relu._found_to_work.cache_clear()


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
@pytest.mark.slow
def test_compiled_once_by_two_processes(cache: Path) -> None:
    code = "from trainer.kernels.native import library; assert library() is not None"
    ranks = [subprocess.Popen([sys.executable, "-c", code], cwd=Path(native.__file__).parents[2]) for _ in range(2)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    (made,) = cache.iterdir()
    assert made.suffix == ".so"
    written = made.stat().st_mtime_ns
    native.library.cache_clear()
    assert native.library() is not None
    assert [made.stat().st_mtime_ns] == [file.stat().st_mtime_ns for file in cache.iterdir()] == [written]


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
def test_other_flags_or_processors_have_a_library_of_their_own(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_compile", lambda command, target: target.write_bytes(b""))
    native._built()
    monkeypatch.setattr(native, "_processor", lambda: "another one")
    native._built()
    monkeypatch.setattr(native, "FLAGS", ("-O1",))
    native._built()
    assert len(list(cache.iterdir())) == 3


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("change", [lambda file: os.truncate(file, 0), lambda file: os.truncate(file, 1000), damage])
def test_a_library_that_is_cut_off_or_damaged_is_compiled_again(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "kernel.cpp").write_text('extern "C" int answer() { return 42; }')
    monkeypatch.setattr(native, "SOURCES", tmp_path / "sources")
    made = native._built()
    content = made.read_bytes()
    change(made)
    assert native._built() == made
    assert made.read_bytes() == content
    library = native.library()
    assert library is not None
    assert library.answer() == 42
    assert not capsys.readouterr().err


def test_other_sources_or_compilers_have_a_library_of_their_own(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sources").mkdir()
    source = tmp_path / "sources" / "kernel.cpp"
    monkeypatch.setattr(native, "SOURCES", source.parent)
    monkeypatch.setattr(native, "_compile", lambda command, target: target.write_bytes(b""))
    for content, compiler in (("int one;", "a++"), ("int two;", "a++"), ("int two;", "b++"), ("int one;", "a++")):
        source.write_text(content)
        monkeypatch.setenv("CXX", compiler)
        native._built()
    assert len(list(cache.iterdir())) == 3


def warning_of(capsys: pytest.CaptureFixture[str]) -> str:
    """What is said the first time; PyTorch trains."""
    native.library.cache_clear()
    group_norm_relu._found_to_work.cache_clear()
    model = build_model("r14x0.5", 3)
    for _ in range(2):
        model(torch.zeros(1, 3, 32, 32)).sum().backward()
    warning = capsys.readouterr().err
    assert warning.startswith("warning: CPU kernels are not used, PyTorch's own are, slower: ")
    assert warning.count("\n") == 1
    return warning


@pytest.mark.usefixtures("cache")
def test_no_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "no C++ compiler (c++, g++, clang++); install one" in warning_of(capsys)


def test_a_compiler_that_fails(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'error: unknown option -fopenmp' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert "broken fails: error: unknown option -fopenmp" in warning_of(capsys)
    assert list(cache.iterdir()) == []


def test_a_compiler_that_is_not_there(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert "No such file" in warning_of(capsys)
    assert list(cache.iterdir()) == []
