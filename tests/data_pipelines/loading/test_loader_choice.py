"""Which loader is taken, and what is said where DALI is not installed."""

import sys

import pytest

import data_pipelines.loading
from data_pipelines.common.errors import InputError
from data_pipelines.loading.loader import pick_loader


def test_loader_is_picked_by_name() -> None:
    assert [pick_loader("auto", on_gpu)[0] for on_gpu in (True, False)] == ["dali", "torch"]
    for on_gpu in (True, False):
        assert [pick_loader(name, on_gpu)[0] for name in ("dali", "torch")] == ["dali", "torch"]
        assert pick_loader("torch", on_gpu)[1] is not pick_loader("dali", on_gpu)[1]


def test_without_dali(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module in [name for name in sys.modules if name.split(".")[:2] == ["nvidia", "dali"]]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.delitem(sys.modules, "data_pipelines.loading.dali_loader", raising=False)
    monkeypatch.delattr(data_pipelines.loading, "dali_loader", raising=False)
    with pytest.raises(InputError, match=r"pip install nvidia-dali-cuda130, or take --loader torch"):
        pick_loader("dali", on_gpu=False)
    assert capsys.readouterr().err == ""
    name, loader = pick_loader("auto", on_gpu=True)
    assert (name, loader) == ("torch", pick_loader("torch", on_gpu=True)[1])
    warning = capsys.readouterr().err
    assert warning.startswith("warning: DALI cannot be imported")
    assert "torch" in warning
