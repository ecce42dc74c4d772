"""torchrun over two hosts, each a network namespace, joined by a cable that can be cut."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from slurm_cluster import descendants, wait_until

from data_pipelines.datasets.phantom import phantom
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from trainer import checkpoint
from trainer.run_folder.metric_logger import read_metrics

ROOT = Path(__file__).resolve().parents[2]
STEPS, TIMEOUT_S = 24, 8
ADDRESS = {"left": "10.77.0.1", "right": "10.77.0.2"}


def can_make_hosts() -> bool:
    """Containers without the right to do so have root all the same."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        return False
    name = f"bitscale-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made


pytestmark = pytest.mark.skipif(not can_make_hosts(), reason="making network namespaces takes root and the ip command")


class Hosts:
    """Two hosts of their own names, on one cable."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.slow = folder / "slow"
        self._space = {name: f"bitscale-{name}-{os.getpid()}" for name in ADDRESS}
        self._running: list[subprocess.Popen[bytes]] = []
        self._slowed = False
        for space in self._space.values():
            ip("netns", "add", space)
        left, right = self._space.values()
        ip("link", "add", "cable", "netns", left, "type", "veth", "peer", "name", "cable", "netns", right)
        for name, space in self._space.items():
            ip("-n", space, "addr", "add", f"{ADDRESS[name]}/24", "dev", "cable")
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "link", "set", "cable", "up")

    def cable(self, state: str) -> None:
        """Plugged in ("up"), at full speed, or not ("down")."""
        ip("-n", self._space["right"], "link", "set", "cable", state)
        if state == "up" and self._slowed:
            for space in self._space.values():
                ip("netns", "exec", space, "tc", "qdisc", "del", "dev", "cable", "root")

    def slow_cable(self, mbit_s: int) -> None:
        self._slowed = True
        for space in self._space.values():
            shape = ["rate", f"{mbit_s}mbit", "burst", "32kb", "latency", "500ms"]
            ip("netns", "exec", space, "tc", "qdisc", "replace", "dev", "cable", "root", "tbf", *shape)

    def sent_bytes(self) -> int:
        """What has left the left host."""
        shown = subprocess.run(
            ["ip", "-n", self._space["left"], "-s", "-j", "link", "show", "cable"], check=True, capture_output=True
        )
        return int(json.loads(shown.stdout)[0]["stats64"]["tx"]["bytes"])

    def torchrun(self, name: str, run: str, *options: str, nodes: str = "2") -> subprocess.Popen[bytes]:
        launch = [
            ROOT / "launchers/torchrun.sh",
            "--nproc",
            "1",
            "--nodes",
            nodes,
            "--endpoint",
            f"{ADDRESS['left']}:29500",
        ]
        launch += ["--local-addr", ADDRESS[name], "--interface", "cable", *options]
        enter = [
            "ip",
            "netns",
            "exec",
            self._space[name],
            "unshare",
            "--uts",
            "sh",
            "-c",
            f'hostname {name}; exec "$@"',
            "sh",
        ]
        log = self.log(name, run).open("w")
        process = subprocess.Popen(
            [*enter, *launch, "--", *self.trainer(run)],
            stdout=log,
            stderr=log,
            env=self.environment,
            start_new_session=True,
        )
        self._running.append(process)
        return process

    def log(self, name: str, run: str) -> Path:
        return self.folder / f"{run}-{name}.log"

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "VIRTUAL_ENV": sys.prefix,
            "PYTHONPATH": f"{Path(__file__).parent / 'slow'}:{ROOT}",
            "BITSCALE_TEST_SLOW": str(self.slow),
            "OMP_NUM_THREADS": "1",
        }

    def trainer(self, run: str) -> list[str]:
        options = {
            "data.sets": self.folder / "phantom",
            "data.image-size": 32,
            "data.resize": 32,
            "schedule.steps": STEPS,
            "schedule.warmup-steps": 4,
            "global-batch-size": 4,
            "device": "cpu",
            "threads": 1,
            "eval-every": 1000,
            "save-every": 4,
            "log-every": 1,
            "timeout-s": TIMEOUT_S,
            "run-dir": self.folder / run,
        }
        return ["phantom", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]

    def wait_for_step(self, run: str, step: int) -> None:
        def there() -> bool:
            for process in self._running:
                assert process.poll() is None, "".join(self.log(name, run).read_text() for name in ADDRESS)
            return any(row["step"] >= step for row in read_metrics(self.folder / run))

        wait_until(there, f"step {step}", 120)

    def crash(self, process: subprocess.Popen[bytes]) -> None:
        """As if the host lost power."""
        self._running.remove(process)
        for pid in [*descendants(process.pid), process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def finish(self, process: subprocess.Popen[bytes]) -> int:
        """Its exit code."""
        code = process.wait(180)
        self._running.remove(process)
        return code

    def close(self) -> None:
        for process in list(self._running):
            self.crash(process)
        for space in self._space.values():
            ip("netns", "del", space)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    prepare(phantom(images=60, size=32), Output(tmp_path / "phantom"))
    hosts = Hosts(tmp_path)
    yield hosts
    hosts.close()


def test_cut_cable(hosts: Hosts) -> None:
    """Each side names the other within the time-out and the seconds of asking who is left; then the run goes on."""
    hosts.slow.touch()
    left, right = (hosts.torchrun(name, "run") for name in ADDRESS)
    hosts.wait_for_step("run", 6)
    lost = {"left": "rank 1 on right has given no sign of life", "right": "rank 0 on left has given no sign of life"}
    cut_and_go_on(hosts, left, right, lost)


@pytest.mark.skipif(shutil.which("tc") is None, reason="a slow link takes the tc command")
def test_cut_cable_in_the_middle_of_an_exchange(hosts: Hosts) -> None:
    """On a link so slow that a step is nearly all exchange of its 8 MB of gradients, some of which are on their way."""
    hosts.slow.touch()
    left, right = (hosts.torchrun(name, "run") for name in ADDRESS)
    hosts.wait_for_step("run", 5)
    hosts.slow_cable(20)
    hosts.slow.unlink()
    hosts.wait_for_step("run", 7)
    before = hosts.sent_bytes()
    wait_until(lambda: hosts.sent_bytes() > before + 2_000_000, "an exchange under way", 30)
    # Gloo's time-out for what is on its way may come before that of the heartbeats.
    lost = {
        "left": r"lost: rank 1|rank 1 on right has given no sign",
        "right": r"lost: rank 0|rank 0 on left has given no sign",
    }
    cut_and_go_on(hosts, left, right, lost)


def cut_and_go_on(
    hosts: Hosts, left: subprocess.Popen[bytes], right: subprocess.Popen[bytes], lost: dict[str, str]
) -> None:
    hosts.cable("down")
    for name, message in lost.items():
        log = hosts.log(name, "run")
        wait_until(lambda log=log, message=message: re.search(message, log.read_text()), message, TIMEOUT_S + 15)
    assert hosts.finish(left) != 0
    assert json.loads((hosts.folder / "run/status.json").read_text())["state"] == "resumable"
    hosts.crash(right)  # torchrun itself waits for its peers much longer, where SLURM would kill it

    hosts.cable("up")
    hosts.slow.unlink(missing_ok=True)
    for process in [hosts.torchrun(name, "run") for name in ADDRESS]:
        assert hosts.finish(process) == 0, hosts.log("left", "run").read_text()
    assert "resuming" in hosts.log("left", "run").read_text()
    assert json.loads((hosts.folder / "run/status.json").read_text())["state"] == "finished"


def test_lost_host_is_done_without(hosts: Hosts) -> None:
    """`--nodes 1:2`: what is left goes on from the last checkpoint, as one rank that resumes it would."""
    hosts.slow.touch()
    elastic = ["--max-restarts", "3", "--last-call", "8"]
    left, right = (hosts.torchrun(name, "run", *elastic, nodes="1:2") for name in ADDRESS)
    hosts.wait_for_step("run", 6)
    hosts.crash(right)
    hosts.slow.unlink()
    shutil.copytree(hosts.folder / "run", hosts.folder / "alone")
    assert hosts.finish(left) == 0, hosts.log("left", "run").read_text()
    starts = [row for row in read_metrics(hosts.folder / "run") if "world_size" in row]
    assert [(row["step"], row["world_size"]) for row in starts] == [(0, 2), (4, 1)]

    alone = subprocess.run(
        [sys.executable, ROOT / "trainer/pretrain.py", *hosts.trainer("alone")],
        env=hosts.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode == 0, alone.stderr
    assert "at step 4" in alone.stdout
    expected, found = (weights(hosts.folder / name) for name in ("alone", "run"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_elastic_run_survives_a_cut_cable(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """One side goes on in the same process; the other, once it is back, ends and joins it anew."""
    monkeypatch.setenv("BITSCALE_SECRET", "of this run" * 3)
    hosts.slow.touch()
    left, right = (hosts.torchrun(name, "run", "--elastic") for name in ADDRESS)
    hosts.wait_for_step("run", 6)
    hosts.cable("down")
    cut = time.monotonic()
    log = hosts.log("left", "run")
    wait_until(lambda: "1 rank at step" in log.read_text(), "the left host alone", TIMEOUT_S + 15)
    assert time.monotonic() - cut < TIMEOUT_S + 10
    alone = max(row["step"] for row in read_metrics(hosts.folder / "run"))
    hosts.wait_for_step("run", alone + 2)
    hosts.cable("up")
    wait_until(lambda: "joined" in log.read_text(), "the right host", 90)
    hosts.slow.unlink()
    assert [hosts.finish(process) for process in (left, right)] == [0, 0], log.read_text()
    assert "resuming" not in log.read_text()
    assert "it ends, to join anew" in hosts.log("right", "run").read_text()
    losses = [row["step"] for row in read_metrics(hosts.folder / "run") if "train/loss" in row]
    assert losses == list(range(1, max(losses) + 1))


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = checkpoint.load(checkpoint.path_of(run_dir, STEPS)).state["model"]
    return state
