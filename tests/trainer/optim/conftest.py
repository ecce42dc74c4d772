"""The ways to update weights."""

import pytest

from trainer.optim.sgd_agc import SGDAGC


@pytest.fixture(params=["kernel", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything holds for both ways to update. Without a C++ compiler both are torch's."""
    if request.param == "torch":
        monkeypatch.setattr(SGDAGC, "_can_use_kernel", lambda *_: False)
    return request.param
