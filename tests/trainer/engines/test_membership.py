"""Ranks and the coordinator of an elastic run, a process of its own, over real connections."""

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.common.errors import InputError
from launchers.coordinator import IN_USE, Coordinator
from trainer.engine import RankLostError
from trainer.engines import membership
from trainer.engines.membership import Membership

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {"ranks": 2, "min_ranks": 1, "straggler_s": 5.0, "wait_s": 60.0}


class Served:
    """A coordinator on a port of its own."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.lost: list[tuple[str, str]] = []
        self.members: list[Membership] = []
        self.settings = dict(SETTINGS)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "launchers/coordinator.py"), self.address],
            env=os.environ | {"BITSCALE_SECRET": "of this run"}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("coordinating")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def member(self, name: str, secret: str = "of this run") -> Membership:
        hello = {"name": name, "host": "h", "place": [0, name], "store": f"of {name}", "settings": self.settings}
        self.members.append(Membership(self.address, secret, hello, lambda who: self.lost.append((name, who))))
        return self.members[-1]

    def connect(self) -> socket.socket:
        host, port = self.address.split(":")
        return socket.create_connection((host, int(port)), 5)


@pytest.fixture
def served() -> Iterator[Served]:
    coordinator = Served()
    yield coordinator
    for member in coordinator.members:
        member.leave("the test is over")
    coordinator.kill()


def together(*calls: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(30) for future in [pool.submit(call) for call in calls]]


def never() -> bool:
    return False


async def cancel(serving: "asyncio.Task[None]") -> None:
    """Once the connections of this loop have ended."""
    while len(asyncio.all_tasks()) > 2:
        await asyncio.sleep(0.01)
    serving.cancel()
    await asyncio.wait([serving])


@pytest.mark.slow
def test_a_clock_that_jumps_loses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the coordinator nor a rank looks at the time of day, which goes forth and back by hours here."""
    jumps = itertools.cycle((0.0, 36_000.0, -36_000.0))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    serving = asyncio.new_event_loop()
    task = serving.create_task(Coordinator(b"of this run").serve("127.0.0.1", port))
    thread = threading.Thread(target=serving.run_forever, daemon=True)
    thread.start()
    hello = {"host": "h", "store": "s", "settings": SETTINGS}
    lost: list[str] = []
    members = [
        Membership(f"127.0.0.1:{port}", "of this run", hello | {"name": name, "place": [0, name]}, lost.append, 30)
        for name in "ab"
    ]
    try:
        first = together(*(member.begin for member in members))
        time.sleep(2.5)  # some signs of life
        rounds = together(*(partial(member.regroup, 5, lambda: False) for member in members))
        heard = (list(lost), [member.lost for member in members])
    finally:
        for member in members:
            member.leave("the test is over")
        asyncio.run_coroutine_threadsafe(cancel(task), serving).result(30)
        serving.call_soon_threadsafe(serving.stop)
        thread.join()
        serving.close()
    assert [[answer["world_size"] for answer in answers] for answers in (first, rounds)] == [[2, 2], [2, 2]]
    assert [answer["round"] for answer in rounds] == [2, 2]
    assert heard == ([], [None, None])


def test_ranks_begin_lose_one_and_take_one_in(served: Served) -> None:
    a, b = served.member("a"), served.member("b")
    assert not a.is_running()
    first = together(b.begin, a.begin)
    assert [each["rank"] for each in first] == [1, 0]
    assert first[0]["store"] == first[1]["store"] == "of a"
    c = served.member("c")
    assert c.is_running()
    joined = together(lambda: c.regroup(-1, never), lambda: (wait_for(lambda: a.joiners_wait), a.regroup(7, never))[1],
                      lambda: b.regroup(7, never))  # fmt: skip
    assert [each["rank"] for each in joined] == [2, 0, 1]
    assert {each["source"] for each in joined} == {0}
    assert not a.joiners_wait
    b.leave("it was asked to stop")
    wait_for(lambda: len(served.lost) == 2)
    assert {who for who, _ in served.lost} == {"a", "c"}
    assert a.lost == "b (it was asked to stop)"
    last = together(lambda: a.regroup(8, never), lambda: c.regroup(8, never))
    assert [each["world_size"] for each in last] == [2, 2]
    assert last[0]["left"][0]["why"] == "it was asked to stop"


def test_coordinator_is_missed_only_when_needed(served: Served) -> None:
    a, b = served.member("a"), served.member("b")
    first = together(a.begin, b.begin)[0]
    served.kill()
    waiting = threading.Thread(target=lambda: time.sleep(0.7) or served.start())
    waiting.start()
    again = together(lambda: a.regroup(3, never), lambda: b.regroup(3, never))
    waiting.join()
    assert [each["round"] for each in again] == [first["round"] + 1] * 2
    assert served.lost == []


def test_rank_that_waits_for_others_can_be_asked_to_stop(served: Served) -> None:
    served.settings |= {"min_ranks": 2}
    a, b = served.member("a"), served.member("b")
    together(a.begin, b.begin)
    b.leave("it was asked to stop")
    asked = threading.Event()
    threading.Timer(0.3, asked.set).start()
    found = a.regroup(3, asked.is_set)
    assert (found["ends"], found["too_few"], found["world_size"]) == (True, None, 1)


def test_suspended_rank_ends_when_it_wakes_up(served: Served) -> None:
    a, b = served.member("a"), served.member("b")
    together(a.begin, b.begin)
    b._round = 0  # as if the others had gone on since its last round
    a_again = together(lambda: a.regroup(4, never), lambda: b.regroup(4, never))[0]
    assert a_again["round"] == 2
    b._round = 1
    assert b._connection is not None
    b._connection.close()
    with pytest.raises(SystemExit) as ended:
        b.regroup(5, never)
    assert ended.value.code == 75  # launchers start it again


def test_secret_is_needed(served: Served) -> None:
    with pytest.raises(InputError, match="another secret"):
        served.member("a", secret="guessed")
    served.members.clear()


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"{}\n", b"[1]\n", b"\xff" * 100 + b"\n", b"[" * 9_999 + b"\n"]
)
def test_strangers_are_sent_away(served: Served, said: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with served.connect() as stranger:
        challenge = json.loads(stranger.makefile().readline())["challenge"]
        assert len(challenge) == 32
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
        answer = stranger.makefile().read()
    assert "stranger" in answer or not answer
    assert not served.member("a").is_running()  # others are served as before
    served.process.terminate()
    served.process.wait()
    assert capfd.readouterr().err == ""


def test_only_its_own_address_is_listened_at(served: Served) -> None:
    port = int(served.address.split(":")[1])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), 5)


def test_second_coordinator_at_an_address_ends(served: Served) -> None:
    command = [sys.executable, str(ROOT / "launchers/coordinator.py"), served.address]
    second = subprocess.run(
        command, env=os.environ | {"BITSCALE_SECRET": "x"}, capture_output=True, text=True, check=False
    )
    assert second.returncode == IN_USE
    assert "cannot be listened at" in second.stderr


def test_coordinator_without_a_secret_says_how_it_is_used() -> None:
    command = [sys.executable, str(ROOT / "launchers/coordinator.py"), "127.0.0.1:1"]
    environment = {name: value for name, value in os.environ.items() if name != "BITSCALE_SECRET"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "usage: coordinator.py HOST:PORT" in ended.stderr


def test_rank_without_a_coordinator_says_how_to_start() -> None:
    with pytest.raises(InputError, match=r"cannot be reached \(.*with launchers/torchrun.sh --elastic"):
        Membership("127.0.0.1:1", "x", {}, lambda who: None)


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"[1]\n", b"\xff\n"])
def test_another_program_at_the_address_is_told(said: bytes) -> None:
    with (
        answering(said) as address,
        pytest.raises(InputError, match=r"is no coordinator; start the run with .* another --endpoint"),
    ):
        Membership(address, "x", {}, lambda who: None)


def test_silent_coordinator_is_not_blamed_on_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "CONNECT_S", 0.1)
    silent = pytest.raises(InputError, match=r"cannot be reached \(it does not answer")
    with answering(b"") as address, silent:
        Membership(address, "x", {}, lambda who: None)


def test_rank_does_not_wait_for_ever_before_the_first_round(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a coordinator that was lost before it said whether others train."""
    monkeypatch.setattr(membership, "PATIENCE_S", 0.3)
    a = served.member("a")
    served.kill()
    a._is_running = None
    with pytest.raises(RankLostError, match="has been gone for"):
        a.is_running()


def test_suspended_coordinator_loses_no_rank(served: Served) -> None:
    a, b = served.member("a"), served.member("b")
    together(a.begin, b.begin)
    served.process.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    served.process.send_signal(signal.SIGCONT)
    found = together(lambda: a.regroup(4, never), lambda: b.regroup(4, never))
    assert [each["world_size"] for each in found] == [2, 2]


@contextmanager
def answering(said: bytes) -> Iterator[str]:
    """The address of another program, which says this to the first that connects."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        connected = pool.submit(server.accept)
        threading.Thread(target=lambda: connected.result()[0].sendall(said), daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        connected.result()[0].close()


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
