"""Disturb runs in every way and see whether anything is lost: python -m tests.faults --rounds 100 --seed 0

Exit code 0 only if every fault was survived: the same command went on, and in the end weights, momentum, losses and
results were those of an undisturbed run bit for bit, with each sample seen once per epoch. With --elastic, ranks are
taken from runs that go on without them, and no start goes on from a checkpoint.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import torch

from tests.faults import elastic_soak
from tests.faults.elastic_judge import References
from tests.faults.elastic_rounds import ROUNDS_PER_RUN, STEPS, ElasticRound, drill
from tests.faults.elastic_rounds import deal as deal_elastic
from tests.faults.figures import show, show_elastic, write_elastic_figures, write_figures
from tests.faults.rounds import Arena, Round, disturb, disturb_prepare
from tests.faults.run import LAUNCHERS, processes_with
from tests.faults.schedule import SHARES, all_layouts, deal
from tests.faults.soak import soak
from tests.faults.strikes import small_disk, unmount

_GPUS = 3  # of an elastic run on GPUs, one for each rank


def main() -> int:
    """Rounds, a soak, or both; returns the exit code."""
    options = _parse()
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bitscale-faults-", dir=options.folder))
    started = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: _leave(folder, 128 + number))
    try:
        if options.elastic:
            return _elastic(options, folder)
        rounds = _rounds(options, folder) if options.rounds else []
        soaked = soak(folder / "soak", options.soak_minutes) if options.soak_minutes else None
    except BaseException:
        traceback.print_exc()
        _leave(folder, 1)
    _kill_all(folder)
    lost = [each for each in rounds if not each.survived]
    if options.figures:
        write_figures(options.figures, rounds, options.seed, soaked)
    if soaked:
        print(f"soak: {soaked}")
    if lost:
        print(f"kept for a look: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    minutes = (time.monotonic() - started) / 60
    if rounds:
        show(rounds)
        print(f"survived {len(rounds) - len(lost)} of {len(rounds)} in {minutes:.1f} minutes, seed {options.seed}")
    return 1 if lost or (soaked is not None and not soaked["passed"]) else 0


def _elastic(options: argparse.Namespace, folder: Path) -> int:
    """Rounds of elastic runs, a soak, or both; returns the exit code. Raises RuntimeError as `drill` does."""
    started = time.monotonic()
    data = Arena(folder / "arena", lambda line: print(line, flush=True)).data
    references = References(data, folder, STEPS, options.device)
    waiting, rounds, number = deal_elastic(options.rounds, options.seed), list[ElasticRound](), 0
    while waiting:
        ranks, float64 = _GPUS if options.device == "cuda" else (3, 4)[number % 2], number % 4 < 2
        faults, seed = waiting[:ROUNDS_PER_RUN], options.seed * 1000 + number
        made = drill(data, folder / f"run-{number}", faults, seed, ranks, float64, references, _tell)
        rounds, waiting, number = rounds + made, waiting[len(made) :], number + 1
        print(
            f"{len(rounds)}/{options.rounds}  {'; '.join(made[-1].wrong) or 'as undisturbed'}",
            flush=True,
        )
    soaked = elastic_soak.soak(data, folder / "soak", options.soak_minutes) if options.soak_minutes else None
    if options.figures:
        write_elastic_figures(options.figures, rounds, options.seed, soaked)
    if rounds:
        show_elastic(rounds)
    survived = sum(each.survived for each in rounds)
    print(
        f"survived {survived} of {len(rounds)} in {(time.monotonic() - started) / 60:.1f} minutes, seed {options.seed}"
    )
    if soaked:
        print(f"soak: {soaked}")
    lost = survived < len(rounds) or (soaked is not None and not soaked["passed"])
    if lost:
        print(f"kept for a look: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return int(lost)


def _tell(each: ElasticRound) -> None:
    print(
        f"  {each.fault} of rank {each.rank} of {each.ranks} in {each.phase}: next step after {each.next_step_s} s, "
        f"paused {each.rejoin_pause_s} s to take it in{''.join(f'; {wrong}' for wrong in each.wrong)}",
        flush=True,
    )


def _kill_all(folder: Path) -> None:
    """What was started has sessions of its own, and would go on."""
    for pid in processes_with(str(folder)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _leave(folder: Path, code: int) -> NoReturn:
    """End at once, whatever other threads are at."""
    _kill_all(folder)
    for line in Path("/proc/mounts").read_text().splitlines():
        if line.split()[1].startswith(str(folder)):
            unmount(Path(line.split()[1]))
    os._exit(code)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="faults to inject; 0: none, for a soak alone")
    parser.add_argument("--seed", type=int, default=0, help="decides which faults strike which runs when")
    parser.add_argument("--faults", nargs="+", choices=SHARES, default=list(SHARES), help="only these")
    parser.add_argument("--engines", nargs="+", choices=LAUNCHERS, default=list(LAUNCHERS), help="only these")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 3, 4], help="only these numbers of ranks")
    parser.add_argument("--jobs", type=int, default=1, help="runs that are disturbed at a time; most of it is waiting")
    parser.add_argument("--elastic", action="store_true", help="take ranks from elastic runs, on 3 and 4 ranks")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help=f"of elastic runs; cuda needs {_GPUS} GPUs"
    )
    parser.add_argument("--soak-minutes", type=float, default=0, help="then let a run of two ranks go on for so long")
    parser.add_argument("--figures", type=Path, help="write what was found to this JSON file; its other parts stay")
    parser.add_argument("--folder", type=Path, help="where to work; default: the system's folder for temporary files")
    options = parser.parse_args()
    if options.elastic and options.device == "cuda" and (gpus := torch.cuda.device_count()) < _GPUS:
        parser.error(f"--device cuda needs {_GPUS} GPUs, and here are {gpus}; without it the runs are on the CPU")
    return options


def _rounds(options: argparse.Namespace, folder: Path) -> list[Round]:
    faults = options.faults
    if "disk-full" in faults and not _can_mount(folder / "probe"):
        faults = [fault for fault in faults if fault != "disk-full"]
        print("skipped: disk-full, which mounts a small file system and needs root for it")
    planned, prepares = deal(options.rounds, options.seed, faults, all_layouts(options.engines, options.ranks))
    rounds: list[Round] = []
    arena = Arena(folder, lambda line: print(line, flush=True))
    pool = ThreadPoolExecutor(options.jobs)
    tasks = [pool.submit(disturb, arena, run) for run in planned]
    tasks += [pool.submit(disturb_prepare, arena, number, options.seed * 1000 + number) for number in range(prepares)]
    for task in as_completed(tasks):
        for each in task.result():
            rounds.append(each)
            _say(each, len(rounds), options.rounds)
    return rounds


def _can_mount(folder: Path) -> bool:
    mounted = small_disk(folder)
    if mounted:
        unmount(folder)
    return mounted


def _say(each: Round, number: int, total: int) -> None:
    verdict = "survived" if each.survived else f"LOST: {'; '.join(each.wrong)}"
    facts = ", ".join(f"{name} {value}" for name, value in each.facts.items() if name != "log" or each.wrong)
    print(f"{number}/{total}  {each.fault}  {each.layout}  in {each.phase}  {verdict}  ({facts})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
