"""Simulated devices: how busy a search keeps them, and its hypervolume against time.

    python benchmarks/asynchrony.py DATA [--seeds 10-14] [--busy_seeds 10-14]
        [--save benchmarks/results/asynchrony.md]
    python benchmarks/asynchrony.py DATA --real [--save FILE]

DATA is a folder with `ofa_mbv3_acc_predictor.pth`. Nothing sleeps: evaluations are answered by that
predictor and end on a simulated clock. An evaluation takes its MACs and a constant part (a quarter
of the mean), times a random factor where there is jitter: uniform within 30 %, or log-normal with a
standard deviation of 30 %. Proposals take no time, and their CPU time is measured. The busy share
is that of a whole run, its end included. The searches were tuned on the seeds 0 to 9.

With `--real`, msunas.py itself runs with 8 workers whose evaluations sleep in proportion to their
FLOPs, twice, with other durations; both must end with the same bytes. That takes two minutes where
nothing else runs.
"""

import argparse
import heapq
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from chaos import contents
from common import ROOT, benchmark_parser, machine, moment, processes, publish, table
from quality import BENCHMARKS, ORIGINAL, SMALL_DOE, seeds_of

from cli.scripts import run_script
from evaluator import build_evaluator
from search import Progress, Search, SpaceCosts, make_objectives
from search.archive import Record
from search.asynchronous import AsynchronousSearch
from search.run_folder import EVENTS
from search.virtual_clock import CONSTANT
from search_space import get_search_space
from utils.errors import UserError
from utils.files import write_text
from utils.pareto import normalized_hypervolume
from utils.parsing import parse_json
from visualization.plots import plot_curves

BENCHMARK = BENCHMARKS["mbv3"]
TARGET = ORIGINAL[340]  # where the original program ends after 340 evaluations
N_ITER, MOST = 8, 500
BUDGETS = (60, 80, 100, 120)
DEVICES = (8, 64, 256)
MOMENTS = tuple(np.arange(2.0, 32.1, 0.5).tolist())  # of the plotted hypervolumes
WAYS = [((64,), True), ((64, 8), False), ((8,), True)]  # devices, asynchronous
# The real workers: as many, and their search.
WORKERS = 8
REAL = ("--evaluator", "benchmarks.slow_table:SlowOracle", "--strategy", "ehvi", "--n_doe", "24",
        "--iterations", "10", "--n_iter", "8", "--cpu_workers", str(WORKERS), "--no_report",
        "--asynchronous")
PER_DEVICE = 30  # evaluations of a run that measures how busy devices are
LOST_AT, SLOW = 0.3, 2.0  # part of the mean run after which a device is lost; factor of a slow one


@dataclass(frozen=True)
class Case:
    """Devices: how many, the jitter of durations, one lost, one at half speed.

    With `tail` the jitter is the standard deviation of a log-normal factor, else the bound of a
    uniform one.
    """

    n: int
    jitter: float = 0.0
    lost: bool = False
    slow: bool = False
    tail: bool = False

    def __str__(self) -> str:
        kind = " (log-normal)" if self.tail else ""
        return ", ".join([f"{self.jitter:.0%} jitter{kind}", *["one lost"] * self.lost,
                          *["one at half speed"] * self.slow])


CASES = [case for n in DEVICES for case in (
    Case(n), Case(n, 0.3), Case(n, 0.3, tail=True), Case(n, 0.3, lost=True),
    Case(n, 0.3, slow=True))]


class Devices:
    """Devices on a simulated clock that start jobs in the order given."""

    def __init__(self, case: Case, seed: int, lost_at: float) -> None:
        self.case, self.rng = case, np.random.default_rng([seed, 9])
        self.now = self.worked = 0.0
        self.lost_at = lost_at if case.lost else np.inf
        self.free = list(range(case.n))
        self.waiting: deque[tuple[int, float]] = deque()
        self._running: list[tuple[float, int, int, float]] = []

    def put(self, number: int, work: float) -> None:
        """Adds a job."""
        jitter = self.case.jitter
        factor = self.rng.lognormal(-jitter ** 2 / 2, jitter) if self.case.tail else \
            self.rng.uniform(1 - jitter, 1 + jitter)
        self.waiting.append((number, float(work * factor)))
        self._fill()

    def next(self) -> int:
        """Moves to the end of the job that ends first; the job of a lost device begins again."""
        while True:
            end, number, device, seconds = heapq.heappop(self._running)
            if device == self.case.n - 1 and end > self.lost_at:
                self.waiting.appendleft((number, seconds))
                self._fill()
                continue
            self.now = end
            self.worked += seconds
            self.free.append(device)
            self._fill()
            return number

    def _fill(self) -> None:
        if self.now >= self.lost_at and self.case.n - 1 in self.free:
            self.free.remove(self.case.n - 1)
        while self.free and self.waiting:
            number, seconds = self.waiting.popleft()
            device = self.free.pop(0)
            taken = seconds * (SLOW if self.case.slow and device == 0 else 1.0)
            heapq.heappush(self._running, (self.now + taken, number, device, taken))

    @property
    def busy(self) -> float:
        """The share of time in which the devices that were there worked."""
        present = self.case.n * self.now - max(0.0, self.now - self.lost_at)
        return self.worked / present


def make_search(data: Path, strategy: str, seed: int, n_doe: int, iterations: int,
                devices: int | None) -> tuple[Search, SpaceCosts]:
    """Returns a search on the oracle, asynchronous where `devices` are named."""
    space = get_search_space(BENCHMARK.space)
    costs = SpaceCosts(space)
    options = {"n_doe": n_doe, "n_iter": N_ITER, "iterations": iterations, "seed": seed,
               "costs": costs, "progress": Progress(0, quiet=True)}
    objectives = make_objectives("flops", costs)
    if devices is None:
        return Search(space, objectives, strategy, **options), costs
    return AsynchronousSearch(space, objectives, strategy, devices=devices, **options), costs


class Oracle:
    """Answers evaluations at once."""

    def __init__(self, data: Path, search: Search, costs: SpaceCosts) -> None:
        self.search, self.costs = search, costs
        self.evaluator = build_evaluator("oracle", {
            "oracle_path": str(data / BENCHMARK.file), "search_space": BENCHMARK.space,
            "space_options": {}})
        self.unit = float(costs.work(search.space.draw(1000, np.random.default_rng(0))).mean())

    def records(self, X: np.ndarray, archs: list[dict]) -> list[Record]:
        """Returns the outcomes of (n, n_var) vectors."""
        flops = self.search.objectives[0].values(X)
        return [Record(arch, 100 - float(self.evaluator.evaluate(arch)["top1"]), float(cost))
                for arch, cost in zip(archs, flops, strict=True)]

    def durations(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n,) durations without jitter."""
        return self.costs.work(X) / self.unit + CONSTANT


def steps(search: Search, oracle: Oracle, *devices: Devices) -> Iterator[list[float]]:
    """Runs a search, and yields the times after each change of its archive.

    One that is not asynchronous is the same on any devices, so several of them can be timed.
    """
    if isinstance(search, AsynchronousSearch):
        (own,), outcomes = devices, {}
        while True:
            while (batch := search.ask()) is not None:
                for i, record in enumerate(oracle.records(batch.X, batch.archs)):
                    outcomes[batch.first + i] = record
                for i, seconds in enumerate(oracle.durations(batch.X)):
                    own.put(batch.first + i, seconds)
            yield [own.now]
            if search.complete:
                return
            number = own.next()
            search.tell(number, outcomes[number])
    while (batch := search.ask()) is not None:
        durations = oracle.durations(batch.X)
        for each in devices:
            for i in np.argsort(-durations, kind="stable").tolist():
                each.put(i, durations[i])
            for _ in batch.archs:
                each.next()
        search.tell(batch, oracle.records(batch.X, batch.archs))
        yield [each.now for each in devices]


def busy(data: Path, case: Case, seed: int) -> list[float]:
    """Returns the busy share of an asynchronous random search, in a list."""
    n = PER_DEVICE * case.n
    search, costs = make_search(data, "random", seed, 100, -(-(n - 100) // N_ITER), case.n)
    devices = Devices(case, seed, LOST_AT * PER_DEVICE)
    for _ in steps(search, Oracle(data, search, costs), devices):
        pass
    return [devices.busy]


def curves(data: Path, ns: tuple[int, ...], asynchronous: bool, seed: int) -> list[dict[str, Any]]:
    """Returns what a search shows on each number of devices; an asynchronous one has one number.

    The time to the target, the evaluations, the hypervolume at each budget, `curve`: that at each
    of `MOMENTS` (the target once it is reached), and `cpu`: the seconds of this process for each
    evaluation.
    """
    search, costs = make_search(data, "ehvi", seed, SMALL_DOE, -(-(MOST - SMALL_DOE) // N_ITER),
                                ns[0] if asynchronous else None)
    devices = [Devices(Case(n, 0.3), seed, np.inf) for n in ns]
    budgets: dict[str, float] = {}
    traces, reached, start = np.full((len(ns), len(MOMENTS)), np.nan), None, time.process_time()
    for now in steps(search, Oracle(data, search, costs), *devices):
        rows = len(search.archive)
        hv = normalized_hypervolume(search.F, BENCHMARK.reference) if rows else 0.0
        traces[np.array(MOMENTS) >= np.array(now)[:, None]] = min(hv, TARGET)
        for budget in BUDGETS:
            if rows >= budget:
                budgets.setdefault(str(budget), normalized_hypervolume(
                    search.F[:budget], BENCHMARK.reference))
        if hv >= TARGET and reached is None:
            reached = now, rows
        if reached is not None and rows >= BUDGETS[-1]:
            break
    cpu = (time.process_time() - start) / max(1, len(search.archive))
    return [budgets | {"curve": trace, "cpu": cpu} | (
        {} if reached is None else {"time": reached[0][i], "evaluations": reached[1]})
        for i, trace in enumerate(traces)]


def real(data: Path) -> str:
    """Returns the table of two searches of msunas.py with workers that sleep.

    Raises:
        UserError: their files differ, though only the durations of evaluations do.
    """
    rows, found = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(2):
            save = Path(folder) / str(seed)
            subprocess.run([sys.executable, "msunas.py", *REAL, "--save", save,
                            "--oracle_path", data.resolve() / BENCHMARK.file], cwd=ROOT, check=True,
                           env=os.environ | {"JITTER_SEED": str(seed)})
            rows.append([seed, *shares_of(save)])
            found.append(contents(save))
    if found[0] != found[1]:
        raise UserError("two searches with other durations differ")
    return "\n\n".join([
        f"{machine()}; {moment()}", f"`msunas.py {' '.join(REAL)}`, share of time busy between the "
        "start of the first evaluation and the end of the last, and from when all workers are "
        "ready; the files of both searches are equal:",
        table(["durations", "seconds", "busy", "from when all are ready"], rows)]) + "\n"


def shares_of(save: Path) -> list[str]:
    """Returns how long the evaluations of a search took, and the shares of time busy."""
    events = [parse_json(line) for line in (save / EVENTS).read_text().splitlines()]
    ends, seconds = np.array([(each["time"], each["seconds"]) for each in events
                              if each["event"] == "evaluation"]).T
    starts, end = ends - seconds, ends.max()
    ready = next((moment for moment in np.sort(starts)
                  if ((starts <= moment) & (ends > moment)).sum() >= WORKERS), starts.min())
    busy = [(ends - np.maximum(starts, begin)).clip(min=0).sum() / (WORKERS * (end - begin))
            for begin in (starts.min(), ready)]
    return [f"{end - starts.min():.0f}", *(f"{share:.1%}" for share in busy)]


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("data", type=Path, help="folder of predictors")
    p.add_argument("--seeds", type=seeds_of, default="10-14", help="of the searches by ehvi")
    p.add_argument("--busy_seeds", type=seeds_of, default="10-14", help="of the busy shares")
    p.add_argument("--workers", type=int, default=2, help="searches at a time")
    p.add_argument("--real", action="store_true", help="run msunas.py with workers that sleep")
    p.add_argument("--save", help="file for the tables, next to which the curves are drawn "
                                  "(default: asynchrony.md, or asynchrony_real.md, in "
                                  "benchmarks/results)")
    return p


def main(args: argparse.Namespace) -> None:
    """Prints the tables, and writes them as far as they are known after every run."""
    name = "asynchrony_real.md" if args.real else "asynchrony.md"
    save = Path(args.save or ROOT / "benchmarks/results" / name)
    if args.real:
        publish(real(args.data), save)
        return
    shares: dict[Case, list[float]] = {case: [] for case in CASES}
    found: dict[tuple[int, bool], list[dict[str, Any]]] = {
        (n, asynchronous): [] for ns, asynchronous in WAYS for n in ns}
    with processes(args.workers) as pool:
        runs: dict[Future[Any], tuple[list[Any], ...]] = {}
        for ns, asynchronous in WAYS:
            runs |= {pool.submit(curves, args.data, ns, asynchronous, seed):
                     tuple(found[n, asynchronous] for n in ns) for seed in args.seeds}
        for case in CASES:
            runs |= {pool.submit(busy, args.data, case, seed): (shares[case],)
                     for seed in args.busy_seeds}
        for done in as_completed(runs):
            for values, value in zip(runs[done], done.result(), strict=True):
                values.append(value)
            write_text(save, report(shares, found))
            draw(save.with_suffix(".png"), found)
    publish(report(shares, found), save)


def draw(path: Path, found: dict[tuple[int, bool], list[dict[str, Any]]]) -> None:
    """Draws the hypervolumes against time."""
    plot_curves(path, MOMENTS, {
        f"{n} devices, {name_of(asynchronous)}": np.array([each["curve"] for each in values])
        for (n, asynchronous), values in found.items() if values},
        title="ehvi on simulated devices", x="time (mean evaluations without their constant part)")


def name_of(asynchronous: bool) -> str:
    """Returns the name of a kind of search."""
    return "asynchronous" if asynchronous else "synchronous"


def report(shares: dict[Case, list[float]],
           found: dict[tuple[int, bool], list[dict[str, Any]]]) -> str:
    """Returns the tables."""
    busy_rows = [[case.n, case, f"{np.mean(values):.1%}", f"{min(values):.1%}", len(values)]
                 for case, values in shares.items() if values]
    rows = []
    for (n, asynchronous), values in found.items():
        reached = [each for each in values if "time" in each]
        if reached:
            rows.append([n, name_of(asynchronous),
                         f"{np.mean([each['time'] for each in reached]):.1f}",
                         f"{np.mean([each['evaluations'] for each in reached]):.0f}",
                         *(f"{np.mean([each[str(b)] for each in values if str(b) in each]):.4f}"
                           for b in BUDGETS),
                         f"{np.mean([each['cpu'] for each in values]):.3f}",
                         f"{len(reached)} of {len(values)}"])
    return "\n\n".join([
        f"{machine()}; {moment()}",
        f"Asynchronous search, {PER_DEVICE} evaluations for each device, share of time busy:",
        table(["devices", "case", "mean", "lowest", "seeds"], busy_rows),
        f"`ehvi`, {SMALL_DOE} + iterations of {N_ITER}, 30 % jitter: until the hypervolume is "
        f"{TARGET}, where the original program ends after 340 evaluations (time in units of a mean "
        "evaluation without its constant part), the hypervolume after so many evaluations, and the "
        "processor time of proposals for each evaluation:",
        table(["devices", "search", "time", "evaluations", *BUDGETS, "CPU s each", "reached"],
              rows)]) + "\n"


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
