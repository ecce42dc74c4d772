"""Evaluation, precision and compilation of the loop and its engine."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from run_ranks import run_ranks
from torch import nn

from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engine import Engine, Progress
from trainer.engines import ENGINES
from trainer.engines.ddp import DDPEngine
from trainer.models.bit import BiTResNet
from trainer.optim.sgd_agc import SGDAGC, param_groups
from trainer.run_folder.metric_logger import MetricLogger, read_metrics
from trainer.training.job import Job, make_job
from trainer.training.loop import train
from trainer.training.prediction import predict


def job_of(data: str, run_dir: Path, **runtime: object) -> Job:
    config = Config(
        global_batch_size=8,
        precision="fp32",
        data=DataConfig(sets=(data,), image_size=32, resize=32),
        model=ModelConfig("r14x0.5"),
        optim=OptimConfig(base_lr=0.1, rescale_lr=False),
        schedule=ScheduleConfig("cosine", epochs=None, steps=4, warmup_steps=0),
        runtime=RuntimeConfig(device="cpu", threads=1, eval_batch_size=4, log_every=1, **runtime),
    )
    return make_job(config, run_dir)


def prepared(engine: Engine, job: Job) -> BiTResNet:
    torch.manual_seed(0)
    model = BiTResNet((1,), 0.5, job.train.num_classes, "fan_in")
    optimizer = SGDAGC(param_groups(model, job.train.num_classes, 0.01), lr=0.0)
    example = torch.zeros(job.largest_pass(engine), 32, 32, job.train.channels, dtype=torch.uint8)
    engine.prepare(model, optimizer, example.permute(0, 3, 1, 2))
    return model


def predict_on_rank(data: str, run_dir: Path) -> list[np.ndarray]:
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")
    job = job_of(data, run_dir)
    prepared(engine, job)
    assert job.test is not None
    logits = []
    for count in (7, 2):
        phases: list[str] = []
        engine.heartbeat.listener = lambda phase, step, phases=phases: phases.append(phase)
        logits.append(predict(job, engine, job.test.take(np.arange(count))).numpy())
        assert "evaluation" in phases  # a rank without samples waits for those that have some, and does not hang
    engine.close()
    return logits


@pytest.mark.slow
def test_evaluation_counts_every_sample_once(phantoms: Path, tmp_path: Path) -> None:
    """Seven samples on three ranks: none is repeated to fill a batch, or the sum of logits would show it. Two samples:
    one rank has none."""
    (alone,) = run_ranks(1, predict_on_rank, str(phantoms), tmp_path)
    assert [len(logits) for logits in alone] == [7, 2]
    assert all(np.abs(logits).min(axis=1).all() for logits in alone)
    for by_count in run_ranks(3, predict_on_rank, str(phantoms), tmp_path):
        for logits, expected in zip(by_count, alone, strict=True):
            np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("done", "every", "expected"), [(1, 5, False), (5, 5, True), (12, 5, True), (11, None, False), (12, None, True)]
)
def test_due_also_at_the_end(done: int, every: int | None, expected: bool, phantoms: Path, tmp_path: Path) -> None:
    job = replace(job_of(str(phantoms), tmp_path), total_steps=12)
    job = replace(job, config=replace(job.config, eval_every=every))
    assert job.is_due("eval", done) is expected
    assert job.is_due("log", done)


def test_bf16_trains_and_rows_are_written(phantoms: Path, tmp_path: Path) -> None:
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "bf16")
    job = job_of(str(phantoms), tmp_path)
    model = prepared(engine, job)
    before = model.head.weight.clone()
    metric_logger = MetricLogger(tmp_path, 0, 0, job.total_steps, "test")
    train(job, engine, metric_logger, Progress(0))
    metric_logger.close()
    assert model.head.weight.dtype == torch.float32
    assert not torch.equal(before, model.head.weight)
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4]
    scalars = {"train/loss", "train/lr", "train/grad_norm", "train/clipped_share", "train/images_per_s"}
    assert scalars | {"train/data_wait_share"} < rows[0].keys()
    assert rows[-1]["step"] == 4
    assert {"val/loss", "val/auc"} <= rows[-1].keys()


def test_the_engine_marks_the_phases_of_a_step(phantoms: Path, tmp_path: Path) -> None:
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")
    job = replace(job_of(str(phantoms), tmp_path, micro_batch_size=4, save_every=2), total_steps=2)
    prepared(engine, job)
    phases: list[tuple[str, int | None]] = []
    engine.heartbeat.listener = lambda phase, step: phases.append((phase, step))
    train(replace(job, val=None), engine, MetricLogger(tmp_path, 1, 0, 2, "test"), Progress(0))
    passes = [(phase, None) for phase in ("exchange", *2 * ("forward", "backward"), "update")]
    assert phases == [("data", 0), *passes, ("data", 1), *passes, ("saving", None), ("saving", None)]


def test_compile_falls_back_with_a_warning(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(unit: nn.Module) -> None:
        def call(*_: object) -> None:
            raise RuntimeError("no compiler here")

        unit._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", broken)
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1, compile=True), "fp32")
    job = job_of(str(phantoms), tmp_path)
    prepared(engine, job)
    train(replace(job, val=None), engine, MetricLogger(tmp_path, 1, 0, 4, "test"), Progress(0))
    assert "warning: torch.compile failed, going on without it: no compiler here" in capfd.readouterr().err


def test_compile_is_for_gpus_unless_asked_for(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda _: pytest.fail("compiled"))
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1, checkpoint_stages=1), "fp32")
    assert prepared(engine, job_of(str(phantoms), tmp_path)).checkpoint_stages == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_units_predict_the_same(phantoms: Path, tmp_path: Path) -> None:
    logits = []
    for compiled in (False, True):
        engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1, compile=compiled), "fp32")
        job = job_of(str(phantoms), tmp_path)
        model = prepared(engine, job)
        assert (model.stages[0].blocks[0]._compiled_call_impl is not None) is compiled
        assert job.test is not None
        logits.append(predict(job, engine, job.test))
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-4)


def test_loss_scaler_goes_through_a_checkpoint(phantoms: Path, tmp_path: Path) -> None:
    """Before the first step of a resumed run, when the scaler has not been used yet."""
    job, states = job_of(str(phantoms), tmp_path), []
    for scale in (None, 1024.0):
        engine = DDPEngine(RuntimeConfig(device="cpu", threads=1), "fp32")
        engine._scales_loss = True  # as fp16 does, which needs a GPU
        prepared(engine, job)
        if scale is not None:
            engine.load_state_dict(states[0] | {"loss_scaler": states[0]["loss_scaler"] | {"scale": scale}})
            engine.backward(engine.model(torch.zeros(2, 1, 32, 32, dtype=torch.uint8)).sum(), 1)
            engine.step()
        states.append(engine.state_dict())
    assert states[1]["loss_scaler"]["scale"] == 1024.0
    assert states[1]["loss_scaler"]["_growth_tracker"] == 1
