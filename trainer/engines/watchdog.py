"""Watches the progress of all ranks: names a rank that hangs, and the slowest.

The thread that trains only notes its step and phase. A thread of its own tells the others through the store, another
one watches, so that neither a store nor a collective that never returns keeps a rank from ending. One thread cannot do
both: a call to a store whose host is gone does not return, and the thread that waits in it ends no process.
"""

import faulthandler
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import get_args

import torch
import torch.distributed as dist

from data_pipelines.common.messages import logger
from trainer.engine import Phase
from trainer.engines.beats import Beat, read_beats, slowest_rank, who_hangs
from trainer.engines.device_clock import DeviceClock

_OF_A_STEP: tuple[Phase, ...] = ("exchange", "forward", "backward", "update")
_UNBOUNDED: tuple[Phase, ...] = ("evaluation", "saving", "finishing")
HUNG = 75  # exit code of a run that can be resumed (EX_TEMPFAIL)
_TICK_S = 0.5
_BEAT_S, _FIRST_BEAT_S = 1.0, 0.1
_RANKS_PER_BEAT_S = 256  # more of them tell less often, or the store would do nothing else
_PATIENCE = 5  # a step may take so many times what the longest took before
_ANSWER_S = 4.0  # to wait for what rank 0 says
_UNTOLD_BEATS = 10  # that the store refuses, before this rank warns that the others may miss it
_OnHang = Callable[[str], None]


class Watchdog:
    """A `Heartbeat`: one rank's beats, and its view of the others'. Without a store it watches only itself.

    `hang_timeout_s` is how long a rank may make no progress; 0 switches watching off. It stays below `timeout_s`, after
    which collectives fail by themselves; the first step gets more, and so do phases without a usual length.
    """

    def __init__(
        self,
        store: dist.Store | None,
        rank: int,
        world_size: int,
        device: torch.device,
        hang_timeout_s: float,
        timeout_s: float,
        is_elastic: bool = False,
    ) -> None:
        self._store, self._rank, self._world_size, self._is_elastic = store, rank, world_size, is_elastic
        if is_elastic:  # a rank that waits for a lost one is no reason to end: its exchange ends first
            hang_timeout_s, timeout_s = hang_timeout_s and max(hang_timeout_s, 2.0 * timeout_s), 4.0 * timeout_s
        self._usual_s = min(hang_timeout_s, 0.8 * timeout_s)
        self._long_s = max(self._usual_s, min(3 * hang_timeout_s, 0.9 * timeout_s))
        self._first_s = 3 * timeout_s
        self._interval_s = max(_BEAT_S, world_size / _RANKS_PER_BEAT_S)
        self._device_clock = DeviceClock() if device.type == "cuda" else None
        self._host = os.environ.get("SLURMD_NODENAME", platform.node())
        self._runs = 0
        self._telling: threading.Thread | None = None
        self.listener: Callable[[Phase, int | None], None] | None = None
        self._begin()

    def _begin(self) -> None:
        self._step, self._steps, self._marks, self._pulse = 0, 0, 0, 0
        self._phase: Phase = "starting"
        self._since = time.monotonic()
        self._seconds: dict[str, float] = dict.fromkeys(get_args(Phase), 0.0)
        self._longest_s = 0.0
        self._seen: dict[int, Beat] = {}
        self._reported: dict[int, Beat] = {}
        self._verdict: str | None = None

    def enter(self, phase: Phase, step: int | None = None) -> None:
        """Report progress: this rank begins a phase of a step. Called by the training thread; takes a microsecond."""
        if phase in _OF_A_STEP and not self._steps:
            phase = "starting"  # engines try a pass before the first step
        if self.listener is not None:
            self.listener(phase, step)
        now = time.monotonic()
        lasted = now - self._since
        self._seconds[self._phase] += lasted
        if self._steps > 1 and self._phase not in _UNBOUNDED:
            self._longest_s = max(self._longest_s, lasted)
        if self._device_clock is not None:
            self._device_clock.enter(phase)
        if step is not None:
            self._step = step
            self._steps += 1
        self._phase, self._since = phase, now
        self._marks += 1

    def slowest(self) -> tuple[dict[str, float], dict[str, str]]:
        """On rank 0, over the steps since the last call: the rank that takes longest for its own work, by how many
        seconds per step it exceeds the median rank; and its phase and host as text."""
        now = self._seen  # which the telling thread replaces
        is_whole = len(now) == self._world_size > 1
        found = slowest_rank(now, self._reported) if is_whole else None
        if found is None:
            return {}, {}
        self._reported = now
        return {"ranks/slowest": found.rank, "ranks/slowest_lag_s": found.lag_s}, {
            "ranks/slowest_phase": found.phase,
            "ranks/slowest_host": now[found.rank].host,
        }

    @contextmanager
    def watching(self, on_hang: _OnHang) -> Iterator[None]:
        """End this process if a rank makes no progress any more. Before that, one rank of the job calls `on_hang` with
        the reason. Collective."""
        self._begin()
        self._stopped = threading.Event()
        watching = threading.Thread(target=self._watch, args=(on_hang,), daemon=True)
        self._start_telling()
        watching.start()
        try:
            yield
        finally:
            self._stopped.set()
            self._stop_telling()
            watching.join(_ANSWER_S)  # it might set the timer below again
            faulthandler.cancel_dump_traceback_later()

    def _start_telling(self) -> None:
        if self._store is None:
            return
        self._runs += 1
        # Clones have connections of their own: one that waits for an answer holds up no other.
        prefix = f"beats/{self._runs}"
        telling, self._asking = (dist.PrefixStore(prefix, self._store.clone()) for _ in range(2))
        telling.set(str(self._rank), json.dumps(self._beat()))
        self._ends_telling = threading.Event()
        self._telling = threading.Thread(target=self._tell, args=(telling, self._ends_telling), daemon=True)
        self._telling.start()

    def _stop_telling(self) -> None:
        if self._telling is not None:
            self._ends_telling.set()
            # In an elastic run the host of its store may be gone, and would have it wait.
            self._telling.join(0 if self._is_elastic else _ANSWER_S)
            self._telling = None

    def move(self, store: dist.Store, rank: int, world_size: int) -> None:
        """Go on as another rank, with a store that nobody has used for this. Collective, within `watching`."""
        self._stop_telling()
        self._store, self._rank, self._world_size, self._runs = store, rank, world_size, 0
        self._begin()
        self._start_telling()

    def _beat(self) -> Beat:
        self._pulse += 1
        forward_s = self._seconds["forward"] if self._device_clock is None else self._device_clock.seconds()
        in_phase_s = time.monotonic() - self._since
        return Beat(
            self._rank, self._host, self._pulse, self._step, self._phase, in_phase_s, self._steps,
            self._seconds["data"], forward_s,
        )  # fmt: skip

    def _tell(self, store: dist.Store, ends: threading.Event) -> None:
        refused = 0
        # Where rank 0 is has to be known before it can be missed.
        while not ends.wait(self._interval_s if 0 in self._seen or refused else _FIRST_BEAT_S):
            try:
                store.set(str(self._rank), json.dumps(self._beat()))
                seen = read_beats(store, range(self._world_size) if self._rank == 0 else [0])
                verdict = store.get("verdict").decode() if store.check(["verdict"]) else None
            except RuntimeError as error:
                # For a moment, or for good: at the end of a run the store may go first, which is nothing to warn of.
                refused += 1
                if refused == _UNTOLD_BEATS and not (self._is_elastic or ends.is_set()):
                    logger.warning(f"rank {self._rank} cannot tell the others that it is alive: {error}")
                continue
            refused = 0
            if ends.is_set():
                return
            self._seen, self._verdict = seen, verdict

    def _watch(self, on_hang: _OnHang) -> None:
        marks, idle_s, last = self._marks, 0.0, time.monotonic()
        while not self._stopped.wait(_TICK_S):
            now = time.monotonic()
            # What a process sleeps through, stopped or suspended, does not count.
            idle_s, last = idle_s + min(now - last, 2 * _TICK_S), now
            if marks != self._marks:
                marks, idle_s = self._marks, 0.0
            if not self._usual_s:
                continue
            if self._world_size > 1:
                self._set_alarm()
            if self._verdict is not None:
                self._leave(self._verdict, None)
            if idle_s > self._limit_s():
                if self._world_size == 1:
                    self._warn(idle_s)
                    idle_s = 0.0
                elif self._is_elastic:  # the others go on by themselves, and this one may join them again
                    self._leave(self._beat().stuck(), None)
                else:
                    self._leave(*self._judge(idle_s, on_hang))

    def _limit_s(self) -> float:
        if self._steps < 2:
            return max(self._first_s, self._usual_s)
        usual_s = max(self._usual_s, _PATIENCE * self._longest_s)
        return max(usual_s, self._long_s) if self._phase in _UNBOUNDED else usual_s

    def _set_alarm(self) -> None:
        # Runs without Python's lock: code that holds it for ever stops all threads of Python, this one too.
        if sys.__stderr__ is not None:
            with suppress(OSError, ValueError):  # nowhere to write to
                faulthandler.dump_traceback_later(2 * self._limit_s() + 60, exit=True, file=sys.__stderr__)

    def _judge(self, idle_s: float, on_hang: _OnHang) -> tuple[str, _OnHang | None]:
        """Which rank hangs, as text, and whether this rank is the one to report it. Takes some seconds."""
        rank_0 = self._seen.get(0)
        lost = rank_0.silent_for(idle_s) if rank_0 else "rank 0 has given no sign of life"
        answers = [(f"{lost}: the store where ranks meet does not answer", on_hang if self._rank == 1 else None)]
        if self._store is None:
            return self._beat().stuck(), None
        asking = threading.Thread(target=lambda: answers.append(self._ask(idle_s, on_hang)), daemon=True)
        asking.start()
        asking.join(_ANSWER_S + 8 * self._interval_s)
        return answers[-1]

    def _ask(self, idle_s: float, on_hang: _OnHang) -> tuple[str, _OnHang | None]:
        deadline = time.monotonic() + (_ANSWER_S + 3 * self._interval_s if self._rank > 0 else 0)
        while time.monotonic() < deadline:  # rank 0 speaks for all, if it can
            if self._asking.check(["verdict"]):
                return self._asking.get("verdict").decode(), None
            time.sleep(_TICK_S)
        before = read_beats(self._asking, range(self._world_size))
        time.sleep(2.5 * self._interval_s)
        after = read_beats(self._asking, range(self._world_size))
        silent = [rank for rank in after if before.get(rank, after[rank]).pulse == after[rank].pulse]
        verdict = who_hangs(after, silent, idle_s, self._world_size)
        speaker = min((rank for rank in after if rank not in silent), default=self._rank)
        if speaker == self._rank:
            self._asking.set("verdict", verdict)
        return verdict, on_hang if speaker == self._rank else None

    def _warn(self, idle_s: float) -> None:
        where = f"phase {self._phase} of step {self._step}"
        logger.warning(f"no progress for {idle_s:.0f} s, in {where}; where it is:")
        _dump_stacks()

    def _leave(self, message: str, on_hang: _OnHang | None) -> None:
        print(
            f"[rank {self._rank}] error: {message}; ending this rank, in phase {self._phase} of step {self._step}. "
            "Start the same command again to resume. Where it is:",
            file=sys.stderr,
            flush=True,
        )
        _dump_stacks()
        if on_hang is not None:
            with suppress(Exception):  # whatever happens, it must end
                on_hang(message)
            time.sleep(2 * self._interval_s)  # the others may read it from a store in this very process
        os._exit(HUNG)


def _dump_stacks() -> None:
    with suppress(Exception):
        faulthandler.dump_traceback(sys.__stderr__ if sys.__stderr__ is not None else 2)
