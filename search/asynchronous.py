"""A search that never waits for a batch: proposals whenever results have ended in virtual time."""

import math
import queue
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from acc_predictor import predictor_class
from evaluator.jobs import Job, JobStream
from search import archive as archives
from search.algorithm import Batch, Search
from search.archive import Record
from search.constraints import initial_sample
from search.evaluation import Evaluations, Failure
from search.strategies.base import Task
from search.surrogate import Surrogate
from search.virtual_clock import CONSTANT, VirtualClock
from search_space import read_arch
from utils.errors import UserError
from utils.pareto import reference_point

# Jobs that wait for a device, for each device, so that one that ends earlier than the clock finds
# work at once. More keep devices busy where durations vary more than by a third, but a proposal
# then knows less; benchmarks/asynchrony.py measured it.
BACKLOG = 1 / 4
# Proposals at a time: as many as the square root of the devices, and one for so many evaluations of
# an iteration.
EVALUATIONS_PER_PROPOSAL = 8
# The strategy proposes from this part of the initial sample on; before, random ones fill in.
LEARN_FROM = 0.25
# Hyperparameters are learned again when the archive has grown by this part.
GROWTH = 0.05
# Proposals that take this part of the time for so many seconds are reported: devices may wait.
TOO_SLOW, MOMENT = 0.9, 30.0

Outcome = Record | Failure


class AsynchronousSearch(Search):
    """A search for devices that are never to wait: `ask` for jobs, `tell` one outcome at a time.

        while not search.complete:
            while (batch := search.ask()) is not None:
                ...  # start its architectures, numbered from batch.first
            ...  # wait for any result
            search.tell(number, outcome)

    Outcomes count in the order of a virtual clock (`VirtualClock`), whatever the order in which
    they are told; a failure counts at its virtual end, too. A proposal knows the outcomes that
    have counted, and takes what is under way as predicted. So a search depends on its seed, its
    settings and `devices` alone. Iteration `i` ends after every `n_iter` outcomes.

    With a folder, a search resumes from the proposals and outcomes of its files, in which
    proposals are numbered `iter_<i>/net_<j>` in the order in which they were made.

    Args:
        devices: how many evaluations the virtual clock runs at a time.
        arguments, options: see `Search`.
    """

    def __init__(self, *arguments: Any, devices: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if any(objective.measured or objective.on_device for objective in self.objectives):
            raise UserError("--asynchronous: a latency is measured while nothing else runs, so "
                            "devices would wait for it; take it from a table (--lut), or search "
                            "without --asynchronous")
        self.devices = devices
        self.group = max(math.isqrt(devices), self.n_iter // EVALUATIONS_PER_PROPOSAL)
        self.backlog = math.ceil(BACKLOG * devices)
        least = self.n_doe * LEARN_FROM
        if self.predictor:
            least = max(least, predictor_class(self.predictor).min_points)
        self._learn_from = int(min(least, self.n_doe))
        self._clock = VirtualClock(devices)
        self._vectors: list[np.ndarray] = []  # every proposal, by number
        self._told: dict[int, Outcome] = {}
        self._recent: list[Outcome] = []  # those of the present iteration
        self._n_fitted = 0  # rows that the hyperparameters are learned from
        self._n_scored = 0  # the same at the start of the iteration: the surrogate of its scores
        self._fitted: dict[int, Surrogate] = {}
        self._stored: list[Record] = []  # the archive of the latest file, when resumed
        self._unit = 1.0  # mean work of the first proposals
        self._n_first = self.n_doe  # proposals of iteration 0
        self._last = self._planned

    @property
    def _planned(self) -> int:
        return self._n_first + self.iterations * self.n_iter

    @property
    def complete(self) -> bool:
        """Whether every outcome has counted, and nothing more will be proposed."""
        return len(self._vectors) >= self._last and not len(self._clock)

    def place(self, number: int) -> tuple[int, int]:
        """Returns the iteration and the index that name the files of a proposal."""
        if number < self._n_first:
            return 0, number
        iteration, index = divmod(number - self._n_first, self.n_iter)
        return iteration + 1, index

    # ---------------------------------------------------------------------------------- ask, tell

    def ask(self) -> Batch | None:
        """Returns what to start now, if anything: in the order of its numbers.

        None until further outcomes are told, or for good where the search is `complete`.
        """
        self._begin()
        while not (k := self._due()):
            if self._clock.first not in self._told:
                return None
            self._count(self._clock.advance())
        first = len(self._vectors)
        if len(self.archive) >= max(self._learn_from, (1 + GROWTH) * self._n_fitted):
            self._n_fitted = len(self.archive)
        X = self._read(first, k)
        if X is None:
            X = self._next(k)
        if not len(X):
            self._last = first
            self._end_iteration()
            return self.ask()
        work = self.costs.work(X)
        if not first:
            self._unit = float(work.mean())
        for number, duration in enumerate(work / self._unit + CONSTANT, start=first):
            self._clock.start(number, float(duration))
        self._vectors += list(X)
        return Batch(self.place(first)[0], [self.space.decode(x) for x in X], X, first=first)

    def tell(self, number: int, outcome: Outcome) -> None:  # type: ignore[override]
        """Takes the outcome of proposal `number`; it counts at its virtual end."""
        self._told[number] = outcome

    def _begin(self) -> None:
        """Without an initial sample, as after a warm start, the proposals start at iteration 1."""
        if not self._vectors and self.archive and self._n_first:
            self._n_first, self._last = 0, self.iterations * self.n_iter

    def _due(self) -> int:
        """Returns how many architectures are proposed at this virtual moment, 0 for none."""
        if not self._vectors and self._n_first:
            return self._n_first
        k = min(self.group, self._last - len(self._vectors))
        return k if len(self._clock) + k <= self.room else 0

    @property
    def room(self) -> int:
        """How many may be under way: at first as many as there are devices, then the backlog, too.

        The backlog grows with what has counted, so that it is not proposed before any result.
        """
        counted = len(self.archive) + len(self.failed_X)
        return self.devices + self.group - 1 + min(self.backlog, counted)

    def _next(self, k: int) -> np.ndarray:
        """Returns up to `k` fresh vectors: the initial sample, proposed ones, or random ones."""
        rng = np.random.default_rng([self.seed, 1, len(self._vectors)])
        if not self._vectors and self._n_first:
            first = np.random.default_rng([self.seed, 0])
            return self.initial if self.initial is not None else initial_sample(
                self.space, k, first, uniform=self.uniform_sample, constraints=self.constraints)
        pending = self._pending()
        known = np.vstack([self.X, self.failed_X, pending])
        if not self._n_fitted:
            nothing = self.X[:0]
            task = Task(self.space, nothing, self.F[:0], known, None,
                        self.constraints.violation(None))
            return task.top_up(nothing, k, rng)[:k]
        if self.strategy.default_predictor is None:
            task = Task(self.space, self.X, self.F, known, None, self.constraints.violation(None))
        else:
            surrogate = self._surrogate(self._n_fitted)
            X, F = self.X[self._n_fitted:], self.F[self._n_fitted:]
            surrogate = surrogate.condition_on(X, F).condition_on(pending)
            predicted = surrogate.predict(pending) if len(pending) else self.F[:0]
            task = Task(self.space, np.vstack([self.X, pending]), np.vstack([self.F, predicted]),
                        known, surrogate, self.constraints.violation(surrogate))
        return self._propose(task, k, rng)

    def _pending(self) -> np.ndarray:
        """Returns the (p, n_var) vectors of what is under way in virtual time."""
        X = [self._vectors[number] for number in self._clock.under_way]
        return np.array(X, dtype=int).reshape(-1, self.space.n_var)

    def _surrogate(self, n: int) -> Surrogate:
        """Returns the surrogate of the first `n` rows; those that are still needed are kept."""
        if n not in self._fitted:
            seed = int(np.random.default_rng([self.seed, 2, n]).integers(2**31))
            kept = {each: self._fitted[each] for each in self._fitted if each == self._n_scored}
            self._fitted = kept | {n: self._fit(n, seed)}
        return self._fitted[n]

    # ------------------------------------------------------------------------------ what is counted

    def _count(self, number: int) -> None:
        """Takes an outcome into the archive at its virtual end."""
        outcome, x = self._told.pop(number), self._vectors[number][None]
        self._recent.append(outcome)
        if isinstance(outcome, Record):
            self._extend([outcome], x)
        else:
            self.failed_X = np.vstack([self.failed_X, x])
        size = self._n_first if self.next_iteration == 0 else self.n_iter
        if len(self._recent) == size or self.complete:
            self._end_iteration()

    def _end_iteration(self) -> None:
        """Ends the iteration, unless it is empty or outcomes are still to come."""
        size = self._n_first if self.next_iteration == 0 else self.n_iter
        if not self._recent or (len(self._recent) < size and not self.complete):
            return
        failures = [each for each in self._recent if isinstance(each, Failure)]
        n_new = len(self._recent) - len(failures)
        if not n_new:
            raise UserError(self._all_failed(self.next_iteration, failures))
        self._recent = []
        if self._stored[:len(self.archive)] == self.archive:  # it is written
            if self.reference is None:
                self.reference = reference_point(self.F)
            self.next_iteration += 1
        else:
            scored = self.next_iteration and self._n_scored and self.strategy.default_predictor
            surrogate = self._surrogate(self._n_scored) if scored else None
            self._finish(self.next_iteration, n_new, failures, self._scores(surrogate, n_new))
        self._n_scored = self._n_fitted

    # ---------------------------------------------------------------------------------------- run

    def restore(self) -> "AsynchronousSearch":
        """Reads the latest archive, with which what the files hold is compared as it counts.

        Raises:
            UserError: as `Search.restore`.
        """
        if self.folder is None or not any(self.folder.path.glob("iter_*.stats")):
            return self
        path = archives.latest_stats(self.folder.path)
        stats = archives.read_stats(path, check_arch=self.space.encode)
        self._check_origin(path, stats)
        self._stored = list(stats.archive)
        if not self.folder.subnet(0, 0).exists():  # a warm start
            rows = archives.read_stats(self.folder.iteration(0)).archive
            self._extend(rows, self.space.encode_many(row.arch for row in rows))
            self.reference, self.next_iteration = reference_point(self.F), 1
        self.progress.say(f"{path}: resuming with {len(stats.archive)} evaluated architectures "
                          f"after iteration {path.stem.removeprefix('iter_')}")
        return self

    def _read(self, first: int, k: int) -> np.ndarray | None:
        """Returns the `k` proposals from number `first` on that an earlier run of it has written.

        None where it has not written all of them: they are the same if they are made again.
        """
        if self.folder is None:
            return None
        paths = [self.folder.subnet(*self.place(number)) for number in range(first, first + k)]
        if not all(path.exists() for path in paths):
            return None
        return self.space.encode_many(read_arch(path, self.space) for path in paths)

    def run(self) -> Path | None:
        """Runs or continues to the end; returns the path of the last stats file, if there is one.

        Results arrive and are stored in this thread; proposals are made in another, so that
        devices are served meanwhile.

        Raises:
            UserError: as `Search.run`.
        """
        if self.engine is None:
            raise UserError("a search without an engine is stepped with ask and tell")
        if not self.archive:
            self.restore()
        jobs = _Jobs(self, Evaluations(self.space, self.objectives, self.engine, self.folder,
                                       self.costs, self.progress, self.retry_failed))
        with jobs.proposed() as proposing:
            for result in self.engine.run(jobs.stream):
                jobs.store(result)
                if proposing.done():  # it has failed, or everything has counted
                    break
            proposing.result()
        return None if self.folder is None else archives.latest_stats(self.folder.path)


class _Jobs:
    """What passes between the thread that proposes and the one that runs the engine."""

    def __init__(self, search: AsynchronousSearch, evaluations: Evaluations) -> None:
        self.search, self.evaluations = search, evaluations
        self.stream = JobStream()
        self._under_way: dict[str, tuple[int, dict[str, float], float]] = {}
        self._outcomes: queue.SimpleQueue[tuple[int, Outcome] | None] = queue.SimpleQueue()
        self._warned = False

    @contextmanager
    def proposed(self) -> Iterator[Future[None]]:
        """Proposes in a thread of its own, which ends with the block."""
        with ThreadPoolExecutor(1) as pool:
            try:
                yield pool.submit(self._propose)
            finally:
                self._outcomes.put(None)

    def store(self, result: Any) -> None:
        """Keeps a result, and hands its outcome to the thread that proposes."""
        number, exact, work = self._under_way.pop(result.job.name)
        outcome = self.evaluations.store(self.search.place(number), result, exact, work,
                                         self.search.progress.n_planned)
        self._outcomes.put((number, outcome))

    def _propose(self) -> None:
        """Asks and tells until the search is complete, or the other thread has ended."""
        try:
            began, thinking = time.monotonic(), 0.0
            while True:
                start = time.monotonic()
                while (batch := self.search.ask()) is not None:
                    self._put(batch)
                thinking += time.monotonic() - start
                self._warn(thinking, time.monotonic() - began)
                if self.search.complete or (told := self._outcomes.get()) is None:
                    return
                self.search.tell(*told)
        finally:
            self.stream.close()

    def _put(self, batch: Batch) -> None:
        """Puts jobs of a batch into the stream; what earlier runs have finished is told at once."""
        numbers = range(batch.first, batch.first + len(batch.archs))
        places = [self.search.place(number) for number in numbers]
        exact, found, waiting = self.evaluations.prepare(batch.archs, batch.X, places)
        for i, outcome in found.items():
            self.search.tell(numbers[i], outcome)
        work = self.search.costs.work(batch.X)
        work = work / work.mean()
        jobs = [Job("iter_{}/net_{}".format(*places[i]), batch.archs[i]) for i in waiting]
        for i, job in zip(waiting, jobs, strict=True):
            self._under_way[job.name] = numbers[i], exact[i], float(work[i])
        self.stream.put(jobs)

    def _warn(self, thinking: float, elapsed: float) -> None:
        if not self._warned and elapsed > MOMENT and thinking > TOO_SLOW * elapsed:
            self._warned = True
            self.search.progress.note(
                f"note: proposals took {thinking:.0f} of {elapsed:.0f} s, so devices may wait for "
                f"them; a larger --n_iter than {self.search.n_iter} proposes more at a time")
