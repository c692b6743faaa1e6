"""The evaluations of a batch: what an engine answers, and what is kept of it on disk."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from evaluator.base import judge
from evaluator.jobs import Job, Result
from search import archive as archives
from search.archive import Record
from search.objectives import FROM_FILES, Objective, SpaceCosts
from search.progress import Progress
from search.run_folder import RunFolder
from search_space import Arch, SearchSpace, read_arch
from utils.errors import UserError
from utils.files import write_json


class Engine(Protocol):
    """Whatever runs jobs, see `evaluator.jobs`."""

    def run(self, jobs: Iterable[Job]) -> Iterable[Result]:
        """Yields the result of every job as it arrives; a `JobStream` may get more meanwhile."""


def with_engine(engine: Engine | None) -> Engine:
    """Returns an engine; raises UserError where there is none to run a search."""
    if engine is None:
        raise UserError("a search without an engine is stepped with ask and tell")
    return engine


@dataclass(frozen=True)
class Failure:
    """An evaluation that gave nothing: its status, see `evaluator.jobs.STATUSES`, and why.

    DEVIATION failed-evaluations: the original scores it: error 100, second objective 1000.
    """

    status: str
    error: str


class Judged(NamedTuple):
    """What a result is for the search, and the stats that are stored of it; {} of a failure."""

    outcome: Record | Failure
    stats: dict[str, Any]


class Evaluations:
    """Evaluates batches on an engine; with a folder, every result is stored as it arrives.

    Args:
        space: the search space.
        objectives: of the search, without the error.
        engine: runs the jobs; None where a program evaluates.
        folder: of the search; None keeps nothing.
        costs: of the space, for the expected durations.
        progress: prints and records what happens.
        retry_failed: evaluate again what is recorded as failed.
    """

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective], engine: Engine | None,
                 folder: RunFolder | None, costs: SpaceCosts, progress: Progress,
                 retry_failed: bool = False) -> None:
        self.space, self.objectives, self.engine = space, list(objectives), engine
        self.folder, self.costs, self.progress = folder, costs, progress
        self.retry_failed = retry_failed

    def run(self, archs: Sequence[Arch], X: np.ndarray,
            places: Sequence[tuple[int, int]]) -> list[Record | Failure]:
        """Returns the outcome of each of n architectures.

        What an earlier run of this search finished is read and not evaluated again.

        Args:
            archs, X, places: of one iteration, see `prepare`.
        """
        exact, found, waiting = self.prepare(archs, X, places)
        work = self.costs.work(X)
        with self.progress.bar(places[0][0], len(archs), len(found)) as bar:
            for i, result in self._measure(archs, waiting, work, places):
                found[i] = self.store(places[i], result, exact[i],
                                      float(work[i] / work.mean()), len(waiting))
                bar.update()
        return [found[i] for i in range(len(archs))]

    def prepare(self, archs: Sequence[Arch], X: np.ndarray, places: Sequence[tuple[int, int]]) \
            -> tuple[list[dict[str, float]], dict[int, Record | Failure], list[int]]:
        """Returns the exact objectives, what an earlier run finished by index, and what is left.

        What is left is written as proposed.

        Args:
            archs, X: n architectures and their (n, n_var) vectors.
            places: (iteration, index) of each, which name its files.
        """
        exact = self.exact_values(X)
        found = self._finished(archs, X, exact, places)
        waiting = [i for i in range(len(archs)) if i not in found]
        if self.folder is not None:
            for i in waiting:
                write_json(self.folder.subnet(*places[i]), archs[i])
        self.progress.n_known += len(found)
        return exact, found, waiting

    def exact_values(self, X: np.ndarray) -> list[dict[str, float]]:
        """Returns the exact objectives of each vector by name."""
        columns = {objective.name: objective.values(X).tolist() for objective in self.objectives
                   if objective.exact}
        return [{name: values[i] for name, values in columns.items()} for i in range(len(X))]

    def _finished(self, archs: Sequence[Arch], X: np.ndarray, exact: list[dict[str, float]],
                  places: Sequence[tuple[int, int]]) -> dict[int, Record | Failure]:
        """Returns what an earlier run of this search left of the evaluations, by index."""
        if self.folder is None:
            return {}
        failures = {} if self.retry_failed else self.folder.read_failed(self.space.encode)
        found: dict[int, Record | Failure] = {}
        for i, (arch, x) in enumerate(zip(archs, X, strict=True)):
            failure = failures.get(places[i])
            subnet, stats = self.folder.subnet(*places[i]), self.folder.stats(*places[i])
            if failure and np.array_equal(self.space.encode(failure.arch), x):
                found[i] = Failure(failure.status, failure.error)
            elif subnet.exists() and stats.exists() and np.array_equal(
                    self.space.encode(read_arch(subnet, self.space)), x):
                found[i] = self.record(arch, archives.read_net_stats(stats), exact[i])
        return found

    def _measure(self, archs: Sequence[Arch], waiting: list[int], work: np.ndarray,
                 places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, Result]]:
        """Yields (index, result) as they come; a latency is measured when no accuracy is."""
        engine = with_engine(self.engine)
        jobs = {"iter_{}/net_{}".format(*places[i]): i for i in waiting}
        accuracy = [Job(name, archs[i], expected=float(work[i])) for name, i in jobs.items()]
        measured = []
        for result in engine.run(accuracy):
            if result.ok and any(objective.measured for objective in self.objectives):
                measured.append(result)
            else:
                yield jobs[result.job.name], result
        first = {result.job.name: result for result in measured}
        for result in engine.run([Job(r.job.name, r.job.arch, kind="latency")
                                  for r in measured]):
            accurate = first[result.job.name]
            yield jobs[result.job.name], replace(
                result, stats={**accurate.stats, **result.stats},
                retried=accurate.retried + result.retried)

    def store(self, place: tuple[int, int], result: Result, exact: Mapping[str, float],
              work: float, batch: int) -> Record | Failure:
        """Returns what is kept of a result, after it is written and recorded.

        Args:
            place: iteration and index.
            result: of the job.
            exact: the exact objectives by name.
            work, batch: see `Progress.evaluated`.
        """
        name = result.job.name
        if result.retried:
            self.progress.note(f"note: {name} took {result.attempts} attempts "
                               f"({'; '.join(result.retried)})")
            if self.folder is not None:
                self.folder.write_retried(name, result.retried)
        judged = self.judged(result, exact)
        self.keep(place, result, judged)
        self.progress.evaluated(*place, result.seconds, getattr(judged.outcome, "status", "ok"),
                                work, batch)
        return judged.outcome

    def judged(self, result: Result, exact: Mapping[str, float]) -> "Judged":
        """Returns what a result is for the search: a failure where its stats cannot be stored."""
        if not result.ok:
            return Judged(Failure(result.status, result.error), {})
        stats = dict(result.stats)
        stats |= {objective.key: exact[objective.name] for objective in self.objectives
                  if objective.source in FROM_FILES and stats.get(objective.key) is None}
        try:
            return Judged(self.record(result.job.arch, stats, exact), stats)
        except UserError as error:
            return Judged(Failure("failed", str(error)), {})

    def keep(self, place: tuple[int, int], result: Result, judged: "Judged") -> None:
        """Writes what a result is for the search; notes a failure."""
        outcome = judged.outcome
        if isinstance(outcome, Failure):
            self.progress.note(f"warning: {result.job.name} {outcome.status}: {outcome.error}")
            if self.folder is not None:
                self.folder.write_failed(*place, result.job.arch, outcome.status, outcome.error,
                                         result.log)
        elif self.folder is not None:
            self.folder.failed(*place).unlink(missing_ok=True)
            write_json(self.folder.stats(*place), judged.stats)

    def record(self, arch: Arch, stats: Mapping[str, Any],
               exact: Mapping[str, float]) -> Record:
        """Returns the record of an evaluation, just made or read from its file.

        Raises:
            UserError: `evaluator.base.judge` finds fault with the stats, or an objective is
                missing.
        """
        status, error = judge(stats)
        if status != "ok":
            raise UserError(f"the evaluator's stats cannot be stored: {error}")
        first, *further = [exact[objective.name] if objective.exact else objective.read(stats)
                           for objective in self.objectives]
        return Record(arch, 100.0 - float(stats["top1"]), float(first), tuple(map(float, further)))
