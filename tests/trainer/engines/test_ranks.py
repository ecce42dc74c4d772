"""Which rank a process is, by what launched it, and jobs that are smaller than they should be."""

import pytest

from data_pipelines.common.errors import InputError
from trainer.engines.consistency import disagreements, shared_gpus, wrong_clocks
from trainer.engines.ranks import RankInfo, find_rank_info, first_host, tasks_of_nodes

SRUN = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_NTASKS": "6",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4,2",
    "SLURM_STEP_NODELIST": "jwb[0007-0008]",
}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
HOROVODRUN = {"HOROVOD_RANK": "3", "HOROVOD_SIZE": "8", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "2"}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, RankInfo(0, 1, 0, 1, "none")),
        ({"RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": ""}, RankInfo(0, 1, 0, 1, "none")),
        (TORCHRUN, RankInfo(3, 8, 1, 2, "torchrun")),
        (HOROVODRUN, RankInfo(3, 8, 1, 2, "horovodrun")),
        (SRUN, RankInfo(5, 6, 1, 2, "srun")),
        (SRUN | TORCHRUN, RankInfo(3, 8, 1, 2, "torchrun")),  # torchrun inside an srun step
    ],
)
def test_place(environ: dict[str, str], place: RankInfo) -> None:
    environ = dict(environ)
    assert find_rank_info(environ) == place
    if place.launcher != "none":
        assert (environ["RANK"], environ["WORLD_SIZE"]) == (str(place.rank), str(place.world_size))
    assert find_rank_info(environ)[:4] == place[:4]  # a second engine of the process finds the same


def test_srun_meets_at_its_first_host() -> None:
    environ = dict(SRUN)
    find_rank_info(environ)
    assert (environ["MASTER_ADDR"], environ["MASTER_PORT"]) == ("jwb0007", "21236")
    environ = SRUN | {"MASTER_ADDR": "jwb0007i", "MASTER_PORT": "29500"}
    find_rank_info(environ)
    assert (environ["MASTER_ADDR"], environ["MASTER_PORT"]) == ("jwb0007i", "29500")


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("jwb[0007-0064,0100],jwc1", "jwb0007"),
        ("node1,node2", "node1"),
        ("node[3,5]", "node3"),
        ("a[01-02]-ib,b", "a01-ib"),
        ("localhost", "localhost"),
    ],
)
def test_first_host(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_tasks_of_nodes() -> None:
    assert tasks_of_nodes("4(x2),1") == [4, 4, 1]
    assert tasks_of_nodes("2") == [2]


def test_a_world_of_one_among_many_tasks_is_refused() -> None:
    batch_script = {"SLURM_NTASKS": "256", "SLURM_PROCID": "0"}
    with pytest.raises(InputError, match="SLURM started 256 tasks, but this job has 1 rank"):
        find_rank_info(dict(batch_script))
    alone_on_each_node = SRUN | {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}
    with pytest.raises(InputError, match="SLURM started 6 tasks, but this job has 4 rank"):
        find_rank_info(alone_on_each_node)


def test_an_salloc_shell_and_a_lost_node_are_only_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    assert find_rank_info({"SLURM_NTASKS": "256"}).world_size == 1
    assert "warning: SLURM started 256 tasks" in capsys.readouterr().err
    smaller = SRUN | {"RANK": "0", "WORLD_SIZE": "4", "TORCHELASTIC_RESTART_COUNT": "1"}
    assert find_rank_info(smaller).world_size == 4
    assert "warning" in capsys.readouterr().err


def test_fewer_nodes_than_slurm_gave_where_min_max_allows_it(capsys: pytest.CaptureFixture[str]) -> None:
    fewer = SRUN | {"RANK": "0", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x", "PET_NNODES": "1:2"}
    assert find_rank_info(fewer).world_size == 4
    assert "warning: SLURM started 6 tasks, but this job has 4 rank(s)" in capsys.readouterr().err


# The first of one to two nodes, which the other may join.
ALONE = {"GROUP_WORLD_SIZE": "1", "TORCHELASTIC_MAX_RESTARTS": "0", "TORCHELASTIC_RUN_ID": "x", "PET_NNODES": "1:2"}


@pytest.mark.parametrize(
    ("differs", "warned"),
    [
        ({}, True),
        ({"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}, False),
        ({"TORCHELASTIC_USE_AGENT_STORE": "False"}, False),
        ({"GROUP_WORLD_SIZE": "1"}, False),
        ({"TORCHELASTIC_MAX_RESTARTS": "0"}, False),
        (ALONE, True),
        (ALONE | {"PET_NNODES": "2:2"}, False),
        (ALONE | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}, False),
    ],
)
def test_plain_torchrun_on_several_nodes_is_told_what_to_export(
    differs: dict[str, str], warned: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    agents = {"GROUP_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    find_rank_info(TORCHRUN | agents | differs)
    line = "\n  export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1\n"
    assert (line in capsys.readouterr().err) == warned


def test_an_environment_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="WORLD_SIZE='four'"):
        find_rank_info({"RANK": "0", "WORLD_SIZE": "four"})


HOSTS = [{"host": f"h{i // 2}", "torch": "2.15", "gpu": f"GPU-{i}", "clock_s": 1000.0 + i} for i in range(6)]


def test_who_stands_out_is_named() -> None:
    assert disagreements(HOSTS, ["torch"]) == shared_gpus(HOSTS) == wrong_clocks(HOSTS) == []
    by_rank = [facts | {"torch": "2.11"} if i == 3 else facts for i, facts in enumerate(HOSTS)]
    assert disagreements(by_rank, ["torch"]) == ["torch: 2.11 on h1 (rank 3), 2.15 on the others"]
    by_rank = [facts | {"gpu": "GPU-2"} if i == 3 else facts for i, facts in enumerate(HOSTS)]
    assert shared_gpus(by_rank)[0].startswith("ranks 2, 3 on h1 share the GPU GPU-2")
    by_rank = [facts | {"clock_s": 5000.0} if i == 4 else facts for i, facts in enumerate(HOSTS)]
    assert wrong_clocks(by_rank) == ["clock: +3997 s on h2 (rank 4)"]


def test_equal_names_on_other_hosts_are_other_gpus() -> None:
    assert shared_gpus([{"host": "a", "gpu": "0"}, {"host": "b", "gpu": "0"}, {"host": "b", "gpu": None}]) == []
