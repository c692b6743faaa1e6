"""Algorithm 1 of NSGANetV2: an archive, a surrogate, a strategy, and a few evaluations a time."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from acc_predictor import require_std
from evaluator.base import judge
from evaluator.jobs import STATUSES, Job, Result
from search import archive as archives
from search.archive import SURROGATE_SCORES, Record, Stats
from search.constraints import Constraints, initial_sample, nearest
from search.evaluation import Engine, Evaluations, Failure, Judged, with_engine
from search.objectives import Objective, SpaceCosts
from search.progress import Progress
from search.run_folder import RunFolder
from search.stored import claim
from search.strategies import get_strategy
from search.strategies.base import Strategy, Task
from search.surrogate import Surrogate
from search_space import Arch, SearchSpace, name_of
from search_space.base import rows_in, unique_rows
from utils.errors import UserError, worded
from utils.metrics import get_correlation
from utils.pareto import non_dominated, normalized_hypervolume, reference_point

# What `Search.tell` takes: the stats of an evaluator, what is stored of them, or a failure.
Told = Mapping[str, Any] | Record | Failure


@dataclass(frozen=True)
class Batch:
    """Architectures to evaluate.

    Attributes:
        iteration: its number.
        archs, X: k architectures and their (k, n_var) vectors.
        surrogate: that proposed them; None in iteration 0.
        first: number of the first one among all proposals of an asynchronous search.
        indices: k, of each in its iteration; () counts them from 0.
    """

    iteration: int
    archs: list[Arch]
    X: np.ndarray
    surrogate: Surrogate | None = None
    first: int = 0
    indices: tuple[int, ...] = ()

    @property
    def places(self) -> list[tuple[int, int]]:
        """The iteration and the index of each, which name its files."""
        return [(self.iteration, i) for i in self.indices or range(len(self.archs))]

    def without(self, indices: Collection[int]) -> "Batch":
        """Returns what is left of a whole batch without some indices."""
        left = [i for i in range(len(self.archs)) if i not in indices]
        return replace(self, archs=[self.archs[i] for i in left], X=self.X[left],
                       indices=tuple(left))


class Step(NamedTuple):
    """How far a search was after an iteration: archive, hypervolume, tau of the surrogate."""

    n_evaluated: int
    hv: float
    tau: float | None

    @classmethod
    def of(cls, stats: Stats) -> Self:
        """Returns the step that stats tell of."""
        return cls(len(stats.archive), stats.hv, stats.surrogate.get("tau"))


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
    holds results resumes from there; other settings than it was started with are refused. All
    randomness comes from the seed and the number of the iteration.

    Args:
        space: the search space.
        objectives: one or more, in addition to the top-1 error.
        strategy: name, or an object of your own.
        predictor: of the error; None takes the strategy's own.
        engine: evaluates jobs, see `evaluator.jobs`; needed by `run` alone.
        folder: path of the run folder, where `settings.json` is written too; or a `RunFolder`
            whose settings the caller writes. None keeps everything in memory.
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
        steps: of the iterations of this process and the last before it, by number; see `history`.
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
        self._claims = isinstance(folder, str | os.PathLike)
        self.folder = RunFolder(folder) if isinstance(folder, str | os.PathLike) else folder
        self.progress = progress or Progress(n_planned=n_doe + iterations * n_iter)
        self.signs = np.array([1.0, *(objective.sign for objective in self.objectives)])
        self.archive: list[Record] = []
        self.X = self.failed_X = np.zeros((0, space.n_var), dtype=int)
        self.reference: np.ndarray | None = None
        self.initial: np.ndarray | None = None
        self.next_iteration = 0
        self.steps: dict[int, Step] = {}
        self._ready = False  # whether the folder was looked at
        self._asked: Batch | None = None  # whole, until all of it is told
        self._outcomes: dict[int, Record | Failure] = {}  # of a part of it

    # ---------------------------------------------------------------------------------- ask, tell

    def ask(self) -> Batch | None:
        """Returns what to evaluate next; None when the search is complete.

        The same until `tell` is called, then what is left of it until all is told. With a folder,
        what is there was evaluated before; an interrupted search resumes.

        Raises:
            UserError: the folder holds another search, or damaged files; or the strategy fails.
        """
        batch = self._left()
        while batch is not None and self.folder is not None and not self._outcomes:
            _, found, _ = self._evaluations.prepare(batch.archs, batch.X, batch.places)
            if not found:
                break
            self._take(found)
            batch = self._left()
        return batch

    def _left(self) -> Batch | None:
        """Returns what is left of the present batch; proposes the next where there is none."""
        self._open()
        if self._asked is None:
            self._asked = self._next_batch()
            if self._asked is not None and not self._asked.archs:  # all of it was known
                self._take({})
                return self._left()
        return self._asked and self._asked.without(self._outcomes)

    def _open(self) -> None:
        """Looks once whether the folder is this search's, and resumes what is in it."""
        if not self._ready:
            self._claim()
            if not self.archive:
                self.restore()
            self._ready = True

    def _claim(self) -> None:
        if self.folder is not None and self._claims:
            claim(self, self.folder)

    def _next_batch(self) -> Batch | None:
        if self.next_iteration == 0 and self.initial is not None:
            return self._batch(self.initial, None)
        if self.next_iteration == 0:
            X = initial_sample(self.space, self.n_doe, self._rng(), uniform=self.uniform_sample,
                               constraints=self.constraints)
            X = X[~rows_in(X, self.X)][:max(0, self.n_doe - len(self.X))]
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

    def tell(self, archs: Batch | Sequence[Arch], outcomes: Sequence[Told]) -> Iteration | None:
        """Takes what was evaluated of the batch that was asked: all of it, or a part in any order.

            search.tell(batch, [{"top1": accuracy(arch)} for arch in batch.archs])
            search.tell([batch.archs[3]], [{"top1": 71.5}])

        Args:
            archs: n architectures of the batch, or the batch itself.
            outcomes: n. Stats as an evaluator returns them: `top1` in percent, and the objectives
                that cannot be computed; stats in which `evaluator.base.judge` finds fault, such as
                NaN, are recorded as a failure. Or a `Record`, or a `Failure`.

        Returns:
            The iteration where it is complete now; None where architectures are left.

        Raises:
            UserError: not one outcome for each, an architecture that was told before or is not of
                the batch, no outcome, or every evaluation of the iteration failed. The search is
                as it was before.
        """
        if self.ask() is None or self._asked is None:
            raise UserError("the search is complete: it waits for no outcome")
        X, told = self._paired(archs, outcomes)
        whole = self.space.canonical(self._asked.X)
        index = {x.tobytes(): i for i, x in enumerate(whole)}
        indices = [index.get(x.tobytes(), -1) for x in X]
        before = rows_in(X, np.vstack([self.X, self.failed_X]))
        for place, i in enumerate(indices):
            if i in self._outcomes or before[place] or (i >= 0 and i in indices[:place]):
                raise UserError(f"architecture {place} was told before; each is told once")
            if i < 0:
                raise UserError(f"architecture {place} is not of the batch of iteration "
                                f"{self._asked.iteration}, which `ask` returns")
        judged = self._judged([self._asked.archs[i] for i in indices], X, told)
        found = dict(zip(indices, (each.outcome for _, each in judged), strict=True))
        self._check_any({**self._outcomes, **found})
        for i, (result, each) in zip(indices, judged, strict=True):
            self._evaluations.keep((self._asked.iteration, i), result, each)
        return self._take(found)

    def tell_known(self, archs: Sequence[Arch], outcomes: Sequence[Told]) -> None:
        """Takes what was measured before the search; it stands for a part of the initial sample.

        Where the search is resumed, it does nothing: the archive holds it.

        Args:
            archs: n architectures.
            outcomes: n, see `tell`; all of them were measured.

        Raises:
            UserError: as `tell`, an outcome is a failure, or the search has begun without it.
        """
        self._open()
        X, told = self._paired(archs, outcomes)
        if self.next_iteration or self._outcomes:
            if not rows_in(X, np.vstack([self.X, self.failed_X])).all():
                raise UserError("the search has begun: tell_known takes what was measured before")
            return
        if len(unique_rows(np.vstack([self.X, X]))) < len(self.X) + len(X):
            raise UserError("an architecture was told before; each is told once")
        judged = self._judged([self.space.decode(x) for x in X], X, told)
        records = [each.outcome for _, each in judged if isinstance(each.outcome, Record)]
        for result, each in judged:
            if isinstance(each.outcome, Failure):
                raise UserError(f"{result.job.name} is no measurement: {each.outcome.error}")
        self._extend(records, X)
        self._claim()
        self.progress.n_known += len(X)
        self._asked = None

    def _paired(self, archs: Batch | Sequence[Arch],
                outcomes: Sequence[Told]) -> tuple[np.ndarray, list[Told]]:
        """Returns n architectures as (n, n_var) vectors, and their outcomes.

        Raises:
            UserError: not one outcome for each, or no architectures of the space.
        """
        for name, value in (("archs", archs), ("outcomes", outcomes)):
            if not isinstance(value, Batch | Iterable) or isinstance(value, str | Mapping):
                raise UserError(f"{name}: must be a list, not {value!r:.60}")
        X = self.space.canonical(archs.X if isinstance(archs, Batch)
                                 else self.space.encode_many(archs))
        told = list(outcomes)
        if len(told) != len(X):
            raise UserError(f"{len(told)} outcomes for {len(X)} architectures; tell one for each, "
                            "of a part of the batch where the rest is not evaluated yet")
        return X, told

    def _judged(self, archs: Sequence[Arch], X: np.ndarray,
                told: Sequence[Told]) -> list[tuple[Result, Judged]]:
        """Returns what n outcomes are: as those of an engine, and for the search.

        Raises:
            UserError: one is nothing of these, or a `Record` of values that are none.
        """
        found = []
        exact = self._evaluations.exact_values(X)
        for i, (arch, outcome) in enumerate(zip(archs, told, strict=True)):
            result = self._as_result(Job(f"outcome {i}", arch), outcome)
            judged = self._evaluations.judged(result, exact[i])
            if isinstance(outcome, Record):
                if isinstance(judged.outcome, Failure):
                    raise UserError(f"outcome {i} is a Record of the error "
                                    f"{outcome.top1_err!r:.40}: {judged.outcome.error}")
                judged = Judged(outcome, judged.stats)
            found.append((result, judged))
        return found

    def _as_result(self, job: Job, outcome: Told) -> Result:
        """Returns an outcome as an engine gives it."""
        if isinstance(outcome, Failure):
            if outcome.status not in STATUSES[1:]:
                raise UserError(f"{job.name}: the status of a failure is one of "
                                f"{', '.join(STATUSES[1:])}, not {outcome.status!r:.60}")
            return Result(job, outcome.status, error=str(outcome.error))
        if isinstance(outcome, Record):
            outcome = self._as_stats(outcome)
        if not isinstance(outcome, Mapping):
            raise UserError(f'{job.name} is {outcome!r:.60}; tell stats as {{"top1": 71.5}}, a '
                            "Record or a Failure")
        stats = {key: value.item() if isinstance(value, np.generic) else value
                 for key, value in outcome.items()}
        status, error = judge(stats)
        return Result(job, status, stats if status == "ok" else {}, error)

    def _as_stats(self, record: Record) -> dict[str, Any]:
        """Returns a record as stats.

        Raises:
            UserError: it has not a number for each objective.
        """
        n, error = len(self.objectives), record.top1_err
        if len(record.values) != n:
            raise UserError(f"a Record of {len(record.values)} objectives besides the error, but "
                            f"the search has {n}: {self.sec_obj}")
        keys = [objective.key for objective in self.objectives]
        stats = dict(zip(keys, record.values, strict=True))
        for objective in self.objectives:
            objective.read(stats)
        return {"top1": 100.0 - error if isinstance(error, int | float) else error, **stats}

    def _take(self, found: Mapping[int, Record | Failure]) -> Iteration | None:
        """Adds outcomes by index to those of the present batch; ends the iteration with the last.

        Raises:
            UserError: every evaluation failed.
        """
        batch, told = self._asked, {**self._outcomes, **found}
        if batch is None or len(told) < len(batch.archs):
            self._outcomes = told
            return None
        self._check_any(told)
        outcomes = [told[i] for i in range(len(batch.archs))]
        records = [each for each in outcomes if isinstance(each, Record)]
        failures = [each for each in outcomes if isinstance(each, Failure)]
        failed = np.array([isinstance(each, Failure) for each in outcomes], dtype=bool)
        n_known = 0 if batch.iteration else len(self.archive)
        self.failed_X = np.vstack([self.failed_X, batch.X[failed]])
        self._extend(records, batch.X[~failed])
        return self._finish(batch.iteration, n_known + len(records), failures,
                            self._scores(batch.surrogate, len(records)))

    def _check_any(self, told: Mapping[int, Record | Failure]) -> None:
        """Raises UserError where outcomes of the whole batch are failures, and nothing is known."""
        failures = [each for each in told.values() if isinstance(each, Failure)]
        if self._asked and len(failures) == len(self._asked.archs) and (
                self._asked.iteration or not self.archive):
            raise UserError(self._all_failed(self._asked.iteration, failures))

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
        self._asked, self._outcomes = None, {}
        self.steps[number] = Step.of(stats)
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
        with_engine(self.engine)
        while (batch := self._left()) is not None:
            with self.progress.phase("evaluate"):
                outcomes = self._evaluations.run(batch.archs, batch.X, batch.places)
            self._take(dict(zip(batch.indices, outcomes, strict=True)))
        return None if self.folder is None else archives.latest_stats(self.folder.path)

    @property
    def _evaluations(self) -> Evaluations:
        return Evaluations(self.space, self.objectives, self.engine, self.folder, self.costs,
                           self.progress, self.retry_failed)

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
        self.steps[done] = Step.of(stats)
        self.progress.n_known += len(self.archive) + len(self.failed_X)
        self.progress.say(f"{path}: resuming with {len(self.archive)} evaluated architectures "
                          f"after iteration {done}")
        return self

    def _check_origin(self, path: Path, stats: Stats) -> None:
        """Raises UserError where stats are of other objectives or another search space."""
        if stats.sec_obj not in (None, self.sec_obj):
            raise UserError(f"{path}: its second objective is {stats.sec_obj}, not {self.sec_obj}; "
                            + worded(f"resume with --sec_obj {stats.sec_obj}, or start in another "
                                     "--save", "give its objectives, or choose another folder"))
        if stats.search_space not in (None, self.space.name, name_of(self.space)):
            raise UserError(f"{path}: of the search space {stats.search_space}, but this search "
                            f"is in {self.space.name}; take that space"
                            + worded(" (--search_space)", ""))

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

    def history(self) -> list[Step]:
        """Returns the steps of the iterations that are known, earlier ones by their files.

        Raises:
            UserError: a damaged file.
        """
        if self.folder is not None:
            paths = {i: self.folder.iteration(i) for i in range(self.next_iteration)}
            self.steps |= {i: Step.of(archives.read_stats(path)) for i, path in paths.items()
                           if i not in self.steps and path.exists()}
        return [self.steps[i] for i in sorted(self.steps)]

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
            f" (logs in {self.folder.path}/failed); fix the cause, then " + worded(
                "resume and retry what failed (--resume with --retry_failed)",
                "evaluate again, in a new process with retry_failed=True"))
        first = f"; the first one: {failures[0].status}: {failures[0].error}" if failures else ""
        return (f"all {len(failures)} evaluations of iteration {iteration} failed{first}"
                f"{hint}")

