"""Algorithm 1 of NSGANetV2: an archive, a surrogate, a strategy, and a few evaluations a time."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from acc_predictor import require_std
from search import archive as archives
from search.archive import SURROGATE_SCORES, Record, Stats
from search.constraints import Constraints, initial_sample, nearest
from search.evaluation import Engine, Evaluations, Failure
from search.objectives import Objective, SpaceCosts
from search.progress import Progress
from search.run_folder import RunFolder
from search.strategies import get_strategy
from search.strategies.base import Strategy, Task
from search.surrogate import Surrogate
from search_space import Arch, SearchSpace, name_of
from search_space.base import rows_in, unique_rows
from utils.errors import UserError
from utils.metrics import get_correlation
from utils.pareto import non_dominated, normalized_hypervolume, reference_point


@dataclass(frozen=True)
class Batch:
    """Architectures to evaluate, and the surrogate that proposed them (None in iteration 0).

    `first` is the number of the first one among all proposals of an asynchronous search.
    """

    iteration: int
    archs: list[Arch]
    X: np.ndarray
    surrogate: Surrogate | None = None
    first: int = 0


@dataclass(frozen=True)
class Iteration:
    """What an iteration gave: its number, stats as they are written, and the failures."""

    number: int
    stats: Stats
    failures: list[Failure] = field(default_factory=list)


class Search:
    """A search as an object: `ask` for a batch, `tell` its outcome, or `run` with an engine.

        search = Search(space, objectives, engine=engine, folder="runs/mine")
        search.run()

    With a folder every result is stored as soon as it arrives, and a search over a folder that
    holds results resumes from there (the caller passes the same arguments). All randomness comes
    from the seed and the number of the iteration.

    Args:
        space: the search space.
        objectives: one or more, in addition to the top-1 error.
        strategy: name, or an object of your own.
        predictor: of the error; None takes the strategy's own.
        engine: evaluates jobs, see `evaluator.jobs`; needed by `run` alone.
        folder: the run folder or its path; None keeps everything in memory.
        n_doe, iterations, n_iter: Algorithm 1: initial sample, iterations, evaluations of each.
        seed: of every random draw.
        constraints: limits that hold while searching, as text (`flops<=300`) or built.
        costs: of the space, shared with the objectives; for constraints and estimates.
        uniform_sample: draw the initial sample uniformly, without the extremes: random search.
        retry_failed: evaluate and propose again what failed before.
        extra: further keys of every stats file, in JSON types.
        progress: prints and records what happens.

    Attributes:
        archive: every evaluated architecture, in the order of evaluation.
        X: (a, n_var) canonical vectors of the archive.
        failed_X: (f, n_var) those of the architectures whose evaluation failed.
        initial: (n, n_var) vectors of the initial sample; None draws it.
    """

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective],
                 strategy: str | Strategy = "msunas", predictor: str | None = None,
                 engine: Engine | None = None,
                 folder: str | os.PathLike | RunFolder | None = None, *,
                 n_doe: int = 100, iterations: int = 30, n_iter: int = 8, seed: int = 0,
                 constraints: Constraints | str | None = None, costs: SpaceCosts | None = None,
                 uniform_sample: bool = False, retry_failed: bool = False,
                 extra: Mapping[str, Any] | None = None, progress: Progress | None = None) -> None:
        self.space, self.objectives = space, list(objectives)
        self.strategy = get_strategy(strategy) if isinstance(strategy, str) else strategy
        self.predictor = predictor or self.strategy.default_predictor
        if self.strategy.needs_std:
            require_std(str(self.predictor))
        self.n_doe, self.iterations, self.n_iter, self.seed = n_doe, iterations, n_iter, seed
        self.costs = costs or SpaceCosts(space)
        self.constraints = constraints if isinstance(constraints, Constraints) else Constraints(
            constraints, objectives, self.costs)
        self.constraints.check_strategy(self.strategy)
        archives.check_room(space, n_doe + iterations * n_iter)
        self.uniform_sample, self.retry_failed = uniform_sample, retry_failed
        self.engine, self.extra = engine, dict(extra or {})
        self.folder = RunFolder(folder) if isinstance(folder, str | os.PathLike) else folder
        self.progress = progress or Progress(n_planned=n_doe + iterations * n_iter)
        self.signs = np.array([1.0, *(objective.sign for objective in self.objectives)])
        self.archive: list[Record] = []
        self.X = self.failed_X = np.zeros((0, space.n_var), dtype=int)
        self.reference: np.ndarray | None = None
        self.initial: np.ndarray | None = None
        self.next_iteration = 0

    # ---------------------------------------------------------------------------------- ask, tell

    def ask(self) -> Batch | None:
        """Returns what to evaluate next; None when the search is complete.

        The same until `tell` is called.
        """
        if self.next_iteration == 0 and self.initial is not None:
            return self._batch(self.initial, None)
        if self.next_iteration == 0:
            X = initial_sample(self.space, self.n_doe, self._rng(), uniform=self.uniform_sample,
                               constraints=self.constraints)
            return self._batch(X, None)
        if self.next_iteration > self.iterations:
            return None
        rng, surrogate = self._rng(), None
        if self.strategy.default_predictor is not None:
            surrogate = self._fit(len(self.archive), int(rng.integers(2**31)))
        task = Task(self.space, self.X, self.F, np.vstack([self.X, self.failed_X]), surrogate,
                    self.constraints.violation(surrogate))
        chosen = self._propose(task, self.n_iter, rng)
        return self._batch(chosen, surrogate) if len(chosen) else None

    def _fit(self, n: int, seed: int) -> Surrogate:
        """Returns a surrogate that has learned from the first `n` rows of the archive."""
        with self.progress.phase("fit"):
            return Surrogate(self.space, self.objectives, str(self.predictor), self.X[:n],
                             self.F[:n], seed, self.strategy.objective_predictor)

    def _propose(self, task: Task, k: int, rng: np.random.Generator) -> np.ndarray:
        """Returns up to `k` fresh vectors; none, and a line, where the space holds no more."""
        with self.progress.phase("propose"):
            chosen = self._fresh(self.strategy.propose(task, k, rng), task, k)
            if not len(chosen):
                chosen = nearest(task, self.constraints, k, rng)
                if len(chosen):
                    self.progress.say(f"iteration {self.next_iteration}: nothing new is predicted "
                                      f"to be within the constraint {self.constraints}; "
                                      "evaluating what comes nearest")
        if not len(chosen):
            within = f" within the constraint {self.constraints}" if self.constraints.limits else ""
            self.progress.say(f"iteration {self.next_iteration}: the space {self.space.name} holds "
                              f"no architecture{within} that was not evaluated; the search is "
                              "complete")
        return chosen

    def _fresh(self, proposed: np.ndarray, task: Task, k: int) -> np.ndarray:
        """Returns what may be evaluated of (n, n_var) proposals; reports it if some may not.

        Raises:
            UserError: they are no vectors of the space, or none of them is new.
        """
        X = np.asarray(proposed)
        if X.ndim != 2 or X.shape[1] != self.space.n_var or (
                len(X) and not np.issubdtype(X.dtype, np.integer)):
            raise UserError(f"the strategy {self.strategy.name} proposed an array of {X.dtype} of "
                            f"shape {X.shape}, not integer vectors (n, {self.space.n_var})")
        new = unique_rows(X)
        new = new[~rows_in(new, task.known)][:k]
        if len(X) and not len(new):
            raise UserError(f"the strategy {self.strategy.name} proposed only architectures that "
                            "were evaluated, or have failed, before")
        if len(new) < len(X):
            self.progress.say(f"iteration {self.next_iteration}: the strategy "
                              f"{self.strategy.name} proposed {len(X)} architectures, of which "
                              f"{len(new)} are new and within the {k} of an iteration")
        return new

    def tell(self, batch: Batch, outcomes: Sequence[Record | Failure]) -> Iteration:
        """Takes the outcome of each architecture of the batch, and returns the iteration's.

        Raises:
            UserError: every evaluation failed.
        """
        records = [each for each in outcomes if isinstance(each, Record)]
        failures = [each for each in outcomes if isinstance(each, Failure)]
        if not records:
            raise UserError(self._all_failed(batch.iteration, failures))
        failed = np.array([isinstance(each, Failure) for each in outcomes])
        self.failed_X = np.vstack([self.failed_X, batch.X[failed]])
        self._extend(records, batch.X[~failed])
        return self._finish(batch.iteration, len(records), failures,
                            self._scores(batch.surrogate, len(records)))

    def add(self, number: int, records: Sequence[Record], X: np.ndarray) -> Iteration:
        """Adds n evaluated architectures, (n, n_var) vectors, as iteration `number`; writes it."""
        self._extend(records, X)
        return self._finish(number, len(records))

    def _extend(self, records: Sequence[Record], X: np.ndarray) -> None:
        self.archive += records
        self.X = np.vstack([self.X, X])

    def _finish(self, number: int, n_new: int, failures: Sequence[Failure] = (),
                scores: dict[str, Any] | None = None) -> Iteration:
        """Ends an iteration, and writes it.

        Args:
            number: of the iteration.
            n_new: how many rows of the archive it has added.
            failures: what failed in it.
            scores: of the surrogate that proposed them; None where there was none.
        """
        if self.reference is None:
            self.reference = reference_point(self.F)
        hv = normalized_hypervolume(self.F, self.reference)
        empty = {"model": self.predictor, "name": None, "winner": None,
                 **dict.fromkeys(SURROGATE_SCORES)}
        new = self.archive[len(self.archive) - n_new:]
        stats = Stats(list(self.archive), new, hv, scores or empty,
                      sec_obj=self.sec_obj, reference_point=self.reference.tolist(),
                      objectives=[objective.describe() for objective in self.objectives],
                      search_space=name_of(self.space), extra=self.extra)
        iteration = Iteration(number, stats, list(failures))
        self.next_iteration = number + 1
        if self.folder is not None:
            archives.write_stats(self.folder.iteration(number), stats)
            archives.remove_previous(self.folder.iteration(number - 1), number, stats)
        left = max(0, self.iterations - number) * self.n_iter
        self.progress.iteration(number, self.iterations, stats, len(failures), left)
        return iteration

    # ---------------------------------------------------------------------------------------- run

    def run(self) -> Path | None:
        """Runs or continues to the end; returns the path of the last stats file, if there is one.

        Raises:
            UserError: no engine, damaged files, or every evaluation of an iteration failed.
        """
        if self.engine is None:
            raise UserError("a search without an engine is stepped with ask and tell")
        if not self.archive:
            self.restore()
        evaluations = Evaluations(self.space, self.objectives, self.engine, self.folder,
                                  self.costs, self.progress, self.retry_failed)
        while (batch := self.ask()) is not None:
            with self.progress.phase("evaluate"):
                outcomes = evaluations.run(batch.archs, batch.X, batch.iteration)
            self.tell(batch, outcomes)
        return None if self.folder is None else archives.latest_stats(self.folder.path)

    def restore(self) -> Self:
        """Loads the latest finished iteration of the folder, if there is one.

        Exact objectives are computed again where networks were measured since, and where a file of
        the original does not name its second objective.

        Raises:
            UserError: a damaged file, or one of other objectives or another search space.
        """
        if self.folder is None or not any(self.folder.path.glob("iter_*.stats")):
            return self
        path = archives.latest_stats(self.folder.path)
        stats = archives.read_stats(path, check_arch=self.space.encode)
        self._check_origin(path, stats)
        self.X = self.space.encode_many(record.arch for record in stats.archive)
        named = stats.sec_obj is not None
        self.archive = list(stats.archive) if named and not self.costs.further else \
            self._exact_records(path, stats.archive, named)
        done = int(path.stem.removeprefix("iter_"))
        archives.remove_previous(self.folder.iteration(done - 1), done, stats)
        if not self.retry_failed:
            failed = self.folder.read_failed(self.space.encode)
            self.failed_X = self.space.encode_many(
                each.arch for (iteration, _), each in failed.items() if iteration <= done)
        if stats.reference_point and stats.sec_obj:
            self.reference = np.array(stats.reference_point)
        elif self.archive:
            self.reference = reference_point(self.F[:self.n_doe])
        self.next_iteration = done + 1
        self.progress.n_known += len(self.archive) + len(self.failed_X)
        self.progress.say(f"{path}: resuming with {len(self.archive)} evaluated architectures "
                          f"after iteration {done}")
        return self

    def _check_origin(self, path: Path, stats: Stats) -> None:
        """Raises UserError where stats are of other objectives or another search space."""
        if stats.sec_obj not in (None, self.sec_obj):
            raise UserError(f"{path}: its second objective is {stats.sec_obj}, not {self.sec_obj}; "
                            f"resume with --sec_obj {stats.sec_obj}, or start in another --save")
        if stats.search_space not in (None, self.space.name, name_of(self.space)):
            raise UserError(f"{path}: of the search space {stats.search_space}, but this search "
                            f"is in {self.space.name}; take that space (--search_space)")

    def _exact_records(self, path: Path, records: Sequence[Record], named: bool) -> list[Record]:
        """Returns records, whose vectors are `self.X`, with values of ours.

        Raises:
            UserError: their objectives are not `named`, and one of ours is known by evaluation
                only.
        """
        unknown = [objective.name for objective in self.objectives
                   if not (objective.exact or named)]
        if unknown and records:
            raise UserError(f"{path}: does not name its second objective, and "
                            f"{', '.join(unknown)} cannot be computed; resume with flops or "
                            "params, or name the folder of its networks (iter_<i>)")
        if not records:
            return []
        values = np.column_stack([
            objective.values(self.X) if objective.exact else [row.values[i] for row in records]
            for i, objective in enumerate(self.objectives)])
        return [Record(record.arch, record.top1_err, row[0], tuple(row[1:]))
                for record, row in zip(records, values.tolist(), strict=True)]

    # -------------------------------------------------------------------------------------- views

    @property
    def archs(self) -> list[Arch]:
        """The architectures of the archive."""
        return [record.arch for record in self.archive]

    @property
    def failed(self) -> list[Arch]:
        """The architectures whose evaluation failed."""
        return [self.space.decode(x) for x in self.failed_X]

    @property
    def sec_obj(self) -> str:
        """The names of the objectives, without the error, as files store them: `flops+cpu`."""
        return "+".join(objective.name for objective in self.objectives)

    @property
    def F(self) -> np.ndarray:  # noqa: N802
        """(a, m) measured objectives, all minimised: the error in percent, then the others."""
        return archives.objectives(self.archive, self.signs)

    def front(self) -> list[Record]:
        """Returns the non-dominated records of the archive by ascending second objective."""
        F = self.F
        front = np.flatnonzero(non_dominated(F))
        return [self.archive[i] for i in front[np.argsort(F[front, 1], kind="stable")]]

    # ----------------------------------------------------------------------------------- internal

    def _rng(self) -> np.random.Generator:
        """The generator of the next iteration: the seed and the number decide alone.

        DEVIATION seed: the original has none, and no run of it can be repeated.
        """
        return np.random.default_rng([self.seed, self.next_iteration])

    def _batch(self, X: np.ndarray, surrogate: Surrogate | None) -> Batch:
        return Batch(self.next_iteration, [self.space.decode(x) for x in X], X, surrogate)

    def _scores(self, surrogate: Surrogate | None, n_new: int) -> dict[str, Any] | None:
        """How well a surrogate, fitted before the last `n_new` rows, predicts the archive.

        And what it predicted of these rows, with the standard deviations where it has them.
        """
        if surrogate is None:
            return None
        error, first = surrogate.error, len(self.archive) - n_new
        predicted = error.predict(self.X)[:, 0]
        quality = get_correlation(predicted, np.array([row.top1_err for row in self.archive]))
        scores = {"model": self.predictor, "name": error.name, "winner": error.winner,
                  **dict(zip(SURROGATE_SCORES, quality, strict=True)),
                  "predicted": predicted[first:].tolist()}
        if error.gives_std:
            scores["predicted_std"] = error.predict(
                self.X[first:], return_std=True)[1][:, 0].tolist()
        return scores

    def _all_failed(self, iteration: int, failures: Sequence[Failure]) -> str:
        hint = "" if self.folder is None else (
            f" (logs in {self.folder.path}/failed); fix the cause, then resume and retry what "
            "failed (--resume with --retry_failed)")
        first = f"; the first one: {failures[0].status}: {failures[0].error}" if failures else ""
        return (f"all {len(failures)} evaluations of iteration {iteration} failed{first}"
                f"{hint}")

