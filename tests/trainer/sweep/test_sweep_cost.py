"""What a sweep will take is told before it starts: steps that are timed, hours, and that the machine is busy."""

import itertools
import json
from dataclasses import replace

import pytest
from planned_sweeps import Planned, leave_result

from data_pipelines.common.cpus import cpu_name
from data_pipelines.common.files import write_json
from trainer.recipes import RECIPES
from trainer.sweep.cost import Rate, cost_lines, hours_of, timed
from trainer.sweep.worker_pool import Device


def test_a_held_up_step_is_timed_with_more_images(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = itertools.count(step=10.0)  # a step takes ten seconds, whatever is in it, and a fiftieth of that in work
    work = itertools.count(step=0.2)
    monkeypatch.setattr("trainer.sweep.cost.time.perf_counter", lambda: next(wall))
    monkeypatch.setattr("trainer.sweep.cost.time.process_time", lambda: next(work))
    config = replace(RECIPES["embedded"](), global_batch_size=64)
    config = replace(config, runtime=replace(config.runtime, device="cpu"))
    assert timed(config, 1) == pytest.approx((64 / (2 * 0.2 + 0.2), 50))  # of 32 images
    assert timed(config, 2) == pytest.approx((64 / (2 * 0.1 + 0.1), 100))  # two threads work at once


def test_a_busy_machine_is_told_of(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(seeds=2)
    monkeypatch.setattr("trainer.sweep.cost.timed", lambda config, threads: Rate(50.0, 1.2))
    assert cost_lines(plan, [Device(None, 1)])[-1].startswith("estimated by images/s: r14x0.5 at 32 px 50 ")
    monkeypatch.setattr("trainer.sweep.cost.timed", lambda config, threads: Rate(50.0, 4.0))
    *_, total, _, busy = cost_lines(plan, [Device(None, 1)])
    assert "about 0.71 hours" in total  # 2 runs of 500 steps of 128 images, and 18 predicted ones
    assert busy.startswith("other work on this machine slowed the timed steps: about 2.84 hours while it stays as busy")


def test_hours_by_the_speed_of_finished_runs(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.sweep.cost.timed", lambda config, threads: Rate(50.0))
    done = planned().runs[0]
    result = leave_result(done)
    here = {"device": cpu_name(), "world_size": 1, "threads_per_rank": 2}
    write_json(result, json.loads(result.read_text()) | {"environment": here})
    rows = [
        {"step": 0, "loader": "torch"},
        *({"step": n, "train/images_per_s": rate} for n, rate in enumerate((10, 200, 300))),
    ]
    (done.run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = planned(seeds=2)
    _, first, second, total, how = cost_lines(plan, [Device(None, 2), Device(None, 2)])
    assert first.endswith("finished")
    hours = (500 * 128 + (2 * 6 + 6) / 3) / 200 / 3600  # an image that is only predicted takes a third
    assert hours_of(plan.runs[1], 200) == pytest.approx(hours)
    assert second.split() == ["scratch/cats/1-shot-seed-1", "r14x0.5", "32", "500", f"{hours:.3f}"]
    assert "2 runs, 1 of them to be made: about 0.09 hours, 0.04 with 2 at a time" in total
    assert "200 (of finished runs)" in how
    for other in (here | {"device": "a GPU"}, here | {"world_size": 2}, here | {"threads_per_rank": 1}):
        write_json(result, json.loads(result.read_text()) | {"environment": other})
        assert "50 (of one timed step, without loading)" in cost_lines(plan, [Device(None, 2)])[-1]
    write_json(result, json.loads(result.read_text()) | {"environment": here})
    assert cost_lines(planned(), [Device(None, 2)])[-1] == "1 run, 0 of them to be made"
