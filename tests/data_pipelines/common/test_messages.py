"""Messages go to standard error, those of rank 0 from rank 0 alone."""

import sys

import pytest

from data_pipelines.common.messages import logger, rank_0_logger


def test_a_line_begins_with_its_level_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    logger.info("100% done")
    logger.warning("a shard is gone")
    logger.error("no space left")
    assert capsys.readouterr().err == "100% done\nwarning: a shard is gone\nerror: no space left\n"


@pytest.mark.parametrize(("rank", "expected"), [("", "hello\n"), ("0", "hello\n"), ("1", ""), ("10", "")])
def test_rank_0_speaks_for_all(
    rank: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    rank_0_logger.info("hello")
    assert capsys.readouterr().err == expected
    logger.info("from every rank")
    assert capsys.readouterr().err == "from every rank\n"


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise OSError("gone")

    monkeypatch.setattr(sys, "stderr", Gone())
    logger.warning("nobody reads this")
