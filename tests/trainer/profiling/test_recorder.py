"""`--profile` on real runs: what it leaves, and that it changes nothing."""

import gzip
import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from run_ranks import run_ranks

from data_pipelines.common.errors import InputError
from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engines import ENGINES
from trainer.profiling import recorder
from trainer.profiling.breakdown import Breakdown, break_down
from trainer.profiling.categories import COMPUTING
from trainer.profiling.recorder import WARM_UP_STEPS
from trainer.run_files import RESULT
from trainer.run_folder.metric_logger import MetricLogger
from trainer.training import run as experiment
from trainer.training.run import LaunchOptions, run
from trainer.training.signals import Stopped, StopSignals

STEPS = WARM_UP_STEPS + 3


def config_of(data: str, profile: int | None, steps: int = STEPS, **runtime: Any) -> Config:
    return Config(
        global_batch_size=8,
        precision="fp32",
        data=DataConfig(sets=(data,), image_size=32, resize=32),
        model=ModelConfig("r14x0.5"),
        optim=OptimConfig(base_lr=0.1, rescale_lr=False),
        schedule=ScheduleConfig("step", epochs=None, steps=steps, warmup_steps=0),
        runtime=RuntimeConfig(device="cpu", threads=1, bucket_mb=1, profile=profile, **{"save_every": 1000} | runtime),
    )


def run_of(config: Config, run_dir: Path, **start: Any) -> dict[str, Any]:
    engine = ENGINES[config.runtime.engine](config.runtime, "fp32")
    try:
        return run(config, LaunchOptions(run_dir, **start), engine, {"kind": "test"})
    finally:
        engine.close()


def runs_on_ranks(configs: list[Config], run_dirs: list[Path]) -> None:
    engine = ENGINES[configs[0].runtime.engine](configs[0].runtime, "fp32")
    for config, run_dir in zip(configs, run_dirs, strict=True):
        run(config, LaunchOptions(run_dir), engine, {"kind": "test"})
    engine.close()


def left_by(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "profile").glob("*"))


def read_trace(run_dir: Path, name: str) -> Breakdown:
    with gzip.open(run_dir / "profile" / f"{name}.json.gz") as file:
        return break_down(json.load(file)["traceEvents"])


def tensors(run_dir: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    state = checkpoint.load(checkpoint.path_of(run_dir, step)).state
    return {f"{part}.{name}": t for part in ("model", "momentum") for name, t in state[part].items()}


@pytest.mark.parametrize(
    ("engine", "ranks"), [("ddp", 1), ("ddp", 2), pytest.param("horovod", 2, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_the_table_adds_up_and_the_weights_are_those_without(
    engine: Any, ranks: int, phantoms: Path, tmp_path: Path
) -> None:
    if importlib.util.find_spec(engine) is None and engine != "ddp":
        pytest.skip(f"{engine} is not installed")
    with_it, without = tmp_path / "with", tmp_path / "without"
    configs = [config_of(str(phantoms), profile, engine=engine) for profile in (2, None)]
    run_ranks(ranks, runs_on_ranks, configs, [with_it, without])
    expected, found = tensors(without), tensors(with_it)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert left_by(with_it) == ["steps-4-5.json.gz", "steps-4-5.md"]
    assert not (without / "profile").exists()

    seen = read_trace(with_it, "steps-4-5")
    assert (seen.steps, seen.on_gpu) == (2, False)
    assert sum(seen.ms.values()) == pytest.approx(seen.step_ms)
    assert all(seen.ms[category] > 0 for category in (*COMPUTING, "data", "idle"))
    assert seen.ms["pause"] == 0  # no step of these evaluates
    assert 0 <= seen.ms["communication"] <= seen.communication_ms <= seen.step_ms
    assert (seen.communication_ms > 0) is (ranks == 2)

    words = (with_it / "profile" / "steps-4-5.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| [\d.]+% \|$", words, re.MULTILINE)
    times = {name: float(ms) for name, ms in rows}
    whole = times.pop("the step")
    assert sum(times.values()) == pytest.approx(whole, abs=0.01 * len(times))
    assert times["convolutions"] == pytest.approx(seen.ms["convolutions"], abs=0.01)
    assert "Just before, without the profiler, it took" in words
    assert f"over {ranks} rank" in words


@pytest.mark.slow
def test_the_last_step_is_recorded_with_its_evaluation(phantoms: Path, tmp_path: Path) -> None:
    run_of(config_of(str(phantoms), STEPS - WARM_UP_STEPS), tmp_path)
    seen = read_trace(tmp_path, f"steps-4-{STEPS - 1}")
    assert seen.steps == STEPS - WARM_UP_STEPS
    assert seen.ms["pause"] > 0
    assert sum(seen.ms.values()) == pytest.approx(seen.step_ms)


@pytest.mark.parametrize(
    ("profile", "steps", "message"),
    [
        (4, STEPS, f"--profile 4 needs 8 steps, 4 of them to warm up; this run has {STEPS}. Take --profile 3 or less"),
        (1, WARM_UP_STEPS, "this run has 4. Leave it out, or make the run longer"),
    ],
)
def test_more_steps_than_the_run_has_are_refused_at_once(
    profile: int, steps: int, message: str, phantoms: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        run_of(config_of(str(phantoms), profile, steps), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("profile", [0, -3])
def test_fewer_than_one_step_is_refused(profile: int) -> None:
    with pytest.raises(InputError, match=f"--profile is {profile}; it must be at least 1"):
        RuntimeConfig(profile=profile)


def test_frozen_features_have_no_steps_to_profile(phantoms: Path) -> None:
    with pytest.raises(InputError, match="--profile records training steps, and --mode probe has none"):
        replace(config_of(str(phantoms), 1), mode="probe")


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException | None = None) -> None:
    """A signal, or an error, comes during the step after so many updates of this start."""
    advance, done = MetricLogger.advance, 0
    listening = StopSignals.listening
    signals: list[StopSignals] = []

    def noted(stop: StopSignals, leave: Any) -> Any:
        signals.append(stop)
        return listening(stop, leave)

    def counted(metric_logger: MetricLogger) -> None:
        nonlocal done
        advance(metric_logger)
        done += 1
        if done == after:
            if error is not None:
                raise error
            signals[-1]._receive(15, None)

    monkeypatch.setattr(StopSignals, "listening", noted)
    monkeypatch.setattr(MetricLogger, "advance", counted)


@pytest.mark.slow
def test_a_stopped_run_writes_its_profile_a_resumed_one_the_rest(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same command each time, which goes on to the end."""
    config = config_of(str(phantoms), 8, steps=12)
    with monkeypatch.context() as patch:
        interrupt(patch, after=5)
        with pytest.raises(Stopped):
            run_of(config, tmp_path)
    done = checkpoint.step_of(checkpoint.numbered(tmp_path)[-1])
    recorded = done - WARM_UP_STEPS
    assert 1 <= recorded < 8
    assert f"warning: --profile 8: this start ends after {recorded} recorded step" in capfd.readouterr().err
    first = f"steps-4-{done - 1}"
    assert left_by(tmp_path) == [f"{first}.json.gz", f"{first}.md"]
    seen = read_trace(tmp_path, first)
    assert seen.steps == recorded
    assert sum(seen.ms.values()) == pytest.approx(seen.step_ms)

    left = 12 - done - WARM_UP_STEPS
    assert run_of(config, tmp_path)["total_steps"] == 12
    assert f"warning: --profile 8: only {left} are recorded, as this start has" in capfd.readouterr().err
    assert read_trace(tmp_path, f"steps-{done + WARM_UP_STEPS}-11").steps == left


@pytest.mark.slow
def test_too_few_steps_left_are_said(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = config_of(str(phantoms), 3)
    with monkeypatch.context() as patch:
        interrupt(patch, after=2)
        with pytest.raises(Stopped):
            run_of(config, tmp_path)
    assert "warning: --profile 3: this start ends after 0 recorded steps" in capfd.readouterr().err
    run_of(config, tmp_path)
    assert "warning: --profile 3: none is recorded, as this start has" in capfd.readouterr().err
    assert not (tmp_path / "profile").exists()
    # A finished run says so, and that nothing was recorded; the same for a start that only checks.
    assert run_of(config, tmp_path)["total_steps"] == STEPS
    assert "warning: --profile records nothing: the run is finished" in capfd.readouterr().err
    run_of(config, tmp_path, preflight_only=True)
    assert "warning: --profile records nothing: --preflight-only trains nothing" in capfd.readouterr().err


def test_an_error_leaves_what_was_recorded_and_is_raised(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, after=6, error=RuntimeError("of the loop"))
    with pytest.raises(RuntimeError, match="of the loop"):
        run_of(config_of(str(phantoms), 3), tmp_path)
    assert left_by(tmp_path) == ["steps-4-5.json.gz", "steps-4-5.md"]


def test_a_folder_that_cannot_be_written_costs_no_run(
    phantoms: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "profile").write_text("a file")
    run_of(config_of(str(phantoms), 2), tmp_path)
    error = capfd.readouterr().err
    assert f"warning: {tmp_path / 'profile'} cannot be written" in error
    assert "| convolutions |" in error  # the table is not lost
    assert (tmp_path / RESULT).is_file()


@pytest.mark.parametrize("broken", ["break_down", "profile"])
def test_a_profiler_that_fails_costs_no_run(
    broken: str,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Broken:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("CUPTI is in use\nelsewhere")

    def refuse(_: Any) -> None:
        raise RuntimeError("CUPTI is in use\nelsewhere")

    monkeypatch.setattr(recorder, broken, Broken if broken == "profile" else refuse)
    run_of(config_of(str(phantoms), 2), tmp_path)
    error = capfd.readouterr().err
    assert error.count("warning: --profile fails, and training goes on without it: CUPTI is in use\n") == 1
    assert (tmp_path / RESULT).is_file()
    assert not torch.autograd.profiler._is_profiler_enabled


def test_it_may_change_at_a_resume(phantoms: Path) -> None:
    one, other = (config_of(str(phantoms), profile).to_dict() for profile in (None, 3))
    assert one != other
    assert not experiment.differences(one, other)
