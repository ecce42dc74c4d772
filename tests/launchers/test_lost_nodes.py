"""Nodes that come and go: torchrun's agents on this machine, which are killed, or whose ranks are, and new ones join.

Each start of all ranks is a row of metrics.jsonl with their number. Agents get as many restarts as they see faults.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from slurm_cluster import children, descendants, wait_until

from data_pipelines.datasets.phantom import phantom
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from trainer import checkpoint
from trainer.run_folder.metric_logger import read_metrics

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60
FORGET_ADDRESSES = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

pytestmark = [pytest.mark.slow, pytest.mark.long]


class Nodes:
    """Agents of one run. This process serves the rendezvous store: none of them is needed for it."""

    def __init__(self, folder: Path, name: str, ranks_each: int, environment: dict[str, str]) -> None:
        self.folder, self.run_dir, self._ranks_each = folder, folder / name, ranks_each
        self._store = dist.TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=1)
        )
        self._slow = folder / f"slow-{name}"
        self._slow.touch()
        self._environment = os.environ | {
            "PYTHONPATH": f"{Path(__file__).parent / 'slow'}:{ROOT}",
            "BITSCALE_TEST_SLOW": str(self._slow),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            **environment,
        }
        self._agents: list[subprocess.Popen[bytes]] = []

    def start(self, restarts: int, *options: str) -> subprocess.Popen[bytes]:
        """One more agent, which may start its ranks so often again; further options of the trainer."""
        conf = "is_host=0,last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=3,join_timeout=120"
        torchrun = ["--nnodes", "1:2", "--nproc-per-node", str(self._ranks_each), "--max-restarts", str(restarts)]
        torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{self._store.port}"]
        torchrun += ["--rdzv-id", "bitscale", "--rdzv-conf", conf, "--local-addr", "127.0.0.1"]
        with self._log(len(self._agents)).open("w") as log:
            agent = subprocess.Popen(
                [sys.executable, ROOT / "launchers/agent.py", *torchrun, *trainer(self.folder, self.run_dir), *options],
                # By which pre-flight knows that this is no second launcher on one node.
                env=self._environment | {"SLURMD_NODENAME": f"node{len(self._agents)}"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._agents.append(agent)
        return agent

    def _log(self, number: int) -> Path:
        return self.folder / f"{self.run_dir.name}-{number}.log"

    def texts(self) -> str:
        return "\n".join(f"--- agent {i}\n{self._log(i).read_text()}" for i in range(len(self._agents)))

    def wait_for(self, *starts: int) -> None:
        """Until there were starts on these numbers of ranks, and the newest of them has saved a step."""

        def there() -> bool:
            assert any(agent.poll() is None for agent in self._agents), self.texts()
            begun = [(row["step"], row["world_size"]) for row in read_metrics(self.run_dir) if "world_size" in row]
            saved = max(map(checkpoint.step_of, checkpoint.numbered(self.run_dir)), default=0)
            return [ranks for _, ranks in begun] == list(starts) and saved > begun[-1][0]

        try:
            wait_until(there, f"starts on {starts} ranks", 180)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{list(read_metrics(self.run_dir))}\n{self.texts()}") from None

    def finish(self, *agents: subprocess.Popen[bytes]) -> None:
        """At full speed, until these have ended well."""
        self._slow.unlink()
        assert [agent.wait(120) for agent in agents] == [0] * len(agents), self.texts()

    def close(self) -> None:
        for agent in self._agents:
            lose_node(agent)


def trainer(folder: Path, run_dir: Path) -> list[str]:
    """The program and its arguments."""
    options = {
        "data.sets": folder / "phantom",
        "data.image-size": 32,
        "data.resize": 32,
        "global-batch-size": 4,
        "schedule.steps": STEPS,
        "schedule.warmup-steps": 4,
        "device": "cpu",
        "threads": 1,
        "eval-every": 1000,
        "save-every": 2,
        "log-every": 1,
        "timeout-s": 20,
        "out": run_dir,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [str(ROOT / "trainer/pretrain.py"), "phantom", *words]


def lose_node(agent: subprocess.Popen[bytes]) -> None:
    """As if its power failed."""
    for pid in (*descendants(agent.pid), agent.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    agent.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes")
    prepare(phantom(images=60, size=32), Output(folder / "phantom"))
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of one rank by itself."""
    run_dir = folder / "undisturbed"
    subprocess.run([sys.executable, *trainer(folder, run_dir)], check=True, capture_output=True)
    return weights(run_dir)


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = checkpoint.load(checkpoint.path_of(run_dir, STEPS)).state["model"]
    return state


@pytest.fixture
def nodes(request: pytest.FixtureRequest, folder: Path) -> Iterator[Nodes]:
    ranks_each, environment = request.param
    name = request.node.name.translate(dict.fromkeys(map(ord, "[], ")))
    nodes = Nodes(folder, name, ranks_each, environment)
    yield nodes
    nodes.close()


@pytest.mark.parametrize("nodes", [(1, FORGET_ADDRESSES)], indirect=True, ids=["one rank each"])
def test_nodes_lost_and_joined(nodes: Nodes, undisturbed: dict[str, torch.Tensor]) -> None:
    first, second = nodes.start(restarts=2), nodes.start(restarts=0)
    nodes.wait_for(2)
    lose_node(second)
    nodes.wait_for(2, 1)
    third = nodes.start(restarts=2)
    nodes.wait_for(2, 1, 2)
    os.kill(children(third.pid)[0], signal.SIGKILL)
    nodes.wait_for(2, 1, 2, 2)
    first.kill()  # its rank notices, saves with the other, and ends
    nodes.wait_for(2, 1, 2, 2, 1)
    nodes.finish(third)
    check(weights(nodes.run_dir), undisturbed)


@pytest.mark.parametrize("nodes", [(2, {})], indirect=True, ids=["two ranks each"])
def test_a_killed_rank_costs_one_restart_of_plain_torchrun(nodes: Nodes, undisturbed: dict[str, torch.Tensor]) -> None:
    """Whose agents keep their store, in which the ranks of the first start have left their answers."""
    first, second = nodes.start(restarts=1), nodes.start(restarts=1)
    nodes.wait_for(4)
    os.kill(children(second.pid)[1], signal.SIGKILL)
    nodes.wait_for(4, 4)
    nodes.finish(first, second)
    assert "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in nodes.texts()
    check(weights(nodes.run_dir), undisturbed)


@pytest.mark.parametrize(
    "engine",
    [
        ["--zero-stage", "1"],
        ["--engine", "deepspeed", "--zero-stage", "2", "--micro-batch-size", "2"],
    ],
    ids=["ddp, ZeRO 1", "deepspeed, ZeRO 2"],
)
@pytest.mark.parametrize("nodes", [(1, FORGET_ADDRESSES)], indirect=True, ids=["one rank each"])
def test_other_engines_go_on(engine: list[str], nodes: Nodes, undisturbed: dict[str, torch.Tensor]) -> None:
    """Also where each rank had a part of the momentum: the checkpoint has it whole."""
    first, second = nodes.start(1, *engine), nodes.start(0, *engine)
    nodes.wait_for(2)
    lose_node(second)
    nodes.wait_for(2, 1)
    nodes.finish(first)
    check(weights(nodes.run_dir), undisturbed)


def check(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Other numbers of ranks sum in another order, and what differs by that grows with the steps."""
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=0, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
