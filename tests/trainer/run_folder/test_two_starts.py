"""The same command given twice: one run in the folder, unharmed, and the other start says who has it."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipelines.common.cli import entry_point
from trainer import checkpoint, status
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engines import ENGINES
from trainer.run_files import CHECKPOINTS, LOCK
from trainer.run_folder import run_lock
from trainer.run_folder.metric_logger import MetricLogger
from trainer.run_folder.run_status import run_status
from trainer.training.run import LaunchOptions, run

STEPS, PAUSED_AT = 8, 5
PATIENCE_S = 120.0


def configured(data: str) -> Config:
    return Config(
        name="small",
        global_batch_size=4,
        precision="fp32",
        data=DataConfig(sets=(data,), image_size=32, resize=32),
        model=ModelConfig("r14x0.5"),
        optim=OptimConfig(base_lr=0.1, rescale_lr=False),
        schedule=ScheduleConfig("cosine", epochs=None, steps=STEPS, warmup_steps=2),
        runtime=RuntimeConfig(device="cpu", threads=1, save_every=2, log_every=2, timeout_s=1),
    )


def trained(data: str, run_dir: Path, **start: Any) -> dict[str, Any]:
    config = configured(data)
    engine = ENGINES["ddp"](config.runtime, "fp32")
    try:
        return run(config, LaunchOptions(run_dir, **start), engine, {"kind": "test"})
    finally:
        engine.close()


class Begun:
    """The same in a process of its own, which stands still after some updates until the file `go` is there."""

    def __init__(self, data: str, run_dir: Path) -> None:
        self.run_dir, self.log, self._go = run_dir, run_dir.parent / "log", run_dir.parent / "go"
        self.number = os.fork()
        if not self.number:
            try:
                self._be(data)
            except SystemExit as end:
                os._exit(int(end.code or 0))
            finally:
                os._exit(70)

    def _be(self, data: str) -> None:
        for stream in (1, 2):
            os.dup2(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w", 1)  # noqa: SIM115 - pytest has put others in their place
        advance, done = MetricLogger.advance, 0

        def counted(metric_logger: MetricLogger) -> None:
            nonlocal done
            advance(metric_logger)
            done += 1
            if done == PAUSED_AT:
                (self.run_dir.parent / "stands").touch()
                wait_for(self._go.exists)

        MetricLogger.advance = counted  # type: ignore[method-assign]
        entry_point(lambda: print(trained(data, self.run_dir)["run"]))()
        os._exit(0)

    def come_to_a_stand(self) -> None:
        """Wait until it has saved twice, and stands still."""
        latest = self.run_dir / CHECKPOINTS / checkpoint.LATEST
        wait_for((self.run_dir.parent / "stands").exists)
        wait_for(lambda: latest.exists() and latest.read_text() == "step_00000004.safetensors\n")

    def go_on(self) -> None:
        self._go.touch()

    def exit_code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])


def wait_for(condition: Callable[[], Any]) -> None:
    patience = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.01)


@pytest.fixture
def begin(phantoms: Path, tmp_path: Path) -> Iterator[Callable[[], Begun]]:
    """A function that begins the run, and returns when it stands still."""
    all_begun: list[Begun] = []

    def begin() -> Begun:
        all_begun.append(Begun(str(phantoms), tmp_path / "run"))
        all_begun[-1].come_to_a_stand()
        return all_begun[-1]

    yield begin
    for begun in all_begun:
        try:
            os.kill(begun.number, signal.SIGKILL)
            os.waitpid(begun.number, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


@pytest.fixture(scope="module")
def undisturbed(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    trained(str(phantoms), folder)
    return weights(folder)


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = checkpoint.load(checkpoint.path_of(run_dir, STEPS)).state["model"]
    return state


def equal(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def contents(run_dir: Path) -> dict[str, tuple[int, bytes]]:
    """Every file but the lock, whose time moves, and TensorBoard's, of which each start has its own."""
    return {
        str(path.relative_to(run_dir)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in run_dir.rglob("*")
        if path.is_file() and path.name != LOCK and path.parent.name != "tensorboard"
    }


@pytest.mark.slow
def test_the_second_start_is_refused_and_the_first_goes_on(
    begin: Callable[[], Begun], phantoms: Path, undisturbed: dict[str, torch.Tensor], capfd: pytest.CaptureFixture[str]
) -> None:
    first = begin()
    before = contents(first.run_dir)
    with pytest.raises(SystemExit) as ended:
        entry_point(lambda: print(trained(str(phantoms), first.run_dir)))()
    error = capfd.readouterr().err
    assert ended.value.code == 2
    assert f"error: {first.run_dir} is in use by process {first.number} on {os.uname().nodename} since 20" in error
    assert contents(first.run_dir) == before
    found = run_status(first.run_dir, 900, time.time())
    assert f"process {first.number} on " in str(found.holder)
    assert f"\n    {found.holder}\n" in status.table([found])
    first.go_on()
    assert first.exit_code() == 0, first.log.read_text()
    assert equal(weights(first.run_dir), undisturbed)
    assert not (first.run_dir / LOCK).exists()
    assert run_status(first.run_dir, 900, time.time()).holder is None


@pytest.mark.slow
def test_after_kill_9_the_same_command_goes_on_at_once(
    begin: Callable[[], Begun],
    phantoms: Path,
    undisturbed: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    first = begin()
    os.kill(first.number, signal.SIGKILL)
    assert first.exit_code() == -signal.SIGKILL
    assert (first.run_dir / LOCK).exists()
    monkeypatch.setattr(run_lock.time, "sleep", lambda _: pytest.fail("nothing to wait for"))
    trained(str(phantoms), first.run_dir)
    assert f"resuming {first.run_dir} at step 4" in capfd.readouterr().out
    assert equal(weights(first.run_dir), undisturbed)
    assert not list(first.run_dir.glob("*lock*"))
