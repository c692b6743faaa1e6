"""MSuNAS (NSGANetV2, ECCV 2020): search for the best trade-offs of accuracy and a second objective.

Algorithm 1 of the paper: an archive of evaluated architectures, a surrogate that predicts their
top-1 error, NSGA-II on the surrogate and the exact second objective, and a few candidates a time
that are evaluated for real.
"""

import argparse
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.functions import is_compiled
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.optimize import minimize
from tqdm import tqdm

from acc_predictor import PREDICTORS, get_acc_predictor
from cli.scripts import TypedFlagsParser, run_script
from cli.types import amount, checked_values, count
from data_providers.table import DATASETS, get_dataset_info
from evaluator import EVALUATORS
from evaluator.jobs import EvaluatorSpec, Job, Result, WorkerError, get_engine, plan_slots
from evaluator.objectives import OBJECTIVES, SecondObjective
from search import archive as archives
from search.archive import Record, Stats, objectives
from search.inputs import check_inputs, fingerprints
from search.operators import (
    CanonicalRepair,
    IntegerPolynomialMutation,
    evolve_subsets,
    gap_deviation,
)
from search.run_folder import RunFolder, check_code, resume_command
from search_space import RESOLUTIONS, SEARCH_SPACES, Arch, SearchSpace, get_search_space, read_arch
from search_space.backbones import width_from_name
from search_space.base import rows_in, unique_rows
from utils.errors import UserError
from utils.files import write_json, write_text
from utils.metrics import get_correlation
from utils.pareto import non_dominated, normalized_hypervolume, reference_point

# The inner search (paper, Section 3.3 and its published code).
POPULATION, GENERATIONS, CROSSOVER_PROB, MUTATION_ETA = 40, 20, 0.9, 1.0
# The subset selection.
SUBSET_POPULATION, SUBSET_GENERATIONS = 100, 60
TOP_UP_ROUNDS = 20
# Evaluations after which the duration of the search is estimated.
ESTIMATE_AFTER = 8

DEFAULT_LUT = "data/cpu_lut_mbv3.yaml"
# Images on which an evaluation recomputes the statistics of batch normalisation.
CALIBRATION_IMAGES = 2000
CPU_MACS_PER_SECOND = 8e9
GIB = 2**30

# Flags that may differ from those that a search was started with: they change no result.
CHANGEABLE = {"save", "resume", "iterations", "n_gpus", "gpu", "n_workers", "cpu_workers",
              "backend", "ray_address", "timeout", "memory_limit", "retries", "retry_failed",
              "cache_dir", "cache_gb", "dry_run", "accept_changed_inputs"}


# ------------------------------------------------------------------------------ the inner problem


class AuxiliarySingleLevelProblem(Problem):
    """Minimises (predicted top-1 error, second objective) over encoded architectures.

    Args:
        space: the search space.
        predictor: `predict(X (n, n_var)) -> (n, 1)` error in percent.
        cost: `cost(X (n, n_var)) -> (n,)` second objective.
    """

    def __init__(self, space: SearchSpace, predictor: Any,
                 cost: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(n_var=space.n_var, n_obj=2, xl=space.lower, xu=space.upper, vtype=int)
        self.predictor = predictor
        self.cost = cost

    def _evaluate(self, x, out, *args, **kwargs):
        out["F"] = np.column_stack([self.predictor.predict(x)[:, 0], self.cost(x)])


# -------------------------------------------------------------------------- one step of the search


def inner_search(space: SearchSpace, predictor: Any, cost: Callable[[np.ndarray], np.ndarray],
                 start: np.ndarray, seed: int) -> np.ndarray:
    """Runs NSGA-II from the vectors `start` and returns the final population, (n, n_var) ints."""
    algorithm = NSGA2(pop_size=POPULATION, sampling=start,
                      crossover=TwoPointCrossover(prob=CROSSOVER_PROB),
                      mutation=IntegerPolynomialMutation(MUTATION_ETA),
                      repair=CanonicalRepair(space.canonical), eliminate_duplicates=True)
    problem = AuxiliarySingleLevelProblem(space, predictor, cost)
    result = minimize(problem, algorithm, ("n_gen", GENERATIONS), seed=seed)
    return np.asarray(result.pop.get("X"), dtype=int)


def select_subset(candidates: np.ndarray, front: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Returns the indices (k,) of the candidates that spread best along the second objective.

    Where there are no more subsets than the genetic algorithm would try, all are compared.

    Args:
        candidates: (m,) second objective, m >= k.
        front: (f,) second objective of the archive's front.
        k: how many to choose.
        seed: of the genetic algorithm.
    """
    if len(candidates) <= k:
        return np.arange(len(candidates))
    if math.comb(len(candidates), k) <= SUBSET_POPULATION * SUBSET_GENERATIONS:
        chosen = np.array(list(combinations(range(len(candidates)), k)))
        masks = np.zeros((len(chosen), len(candidates)), dtype=bool)
        np.put_along_axis(masks, chosen, True, axis=1)
        return chosen[gap_deviation(masks, candidates, front).argmin()]
    return np.flatnonzero(evolve_subsets(candidates, front, k, SUBSET_POPULATION,
                                         SUBSET_GENERATIONS, np.random.default_rng(seed)))


def top_up(space: SearchSpace, X: np.ndarray, known: np.ndarray, k: int,
           rng: np.random.Generator) -> np.ndarray:
    """Returns at least `k` distinct new vectors, if the space has them: `X`, then random ones."""
    for _ in range(TOP_UP_ROUNDS):
        if len(X) >= k:
            break
        X = unique_rows(np.vstack([X, space.draw(4 * k, rng)]))
        X = X[~rows_in(X, known)]
    return X


def propose(space: SearchSpace, predictor: Any, cost: Callable[[np.ndarray], np.ndarray],
            X: np.ndarray, F: np.ndarray, known: np.ndarray, k: int,
            rng: np.random.Generator) -> np.ndarray:
    """Returns up to `k` new architectures to evaluate: step 2 of Algorithm 1.

    Args:
        space: the search space.
        predictor: fitted on the archive.
        cost: the second objective of (n, n_var) vectors.
        X: (a, n_var) canonical vectors of the archive.
        F: (a, 2) measured error and second objective.
        known: (b, n_var) vectors that must not be proposed: the archive and what failed.
        k: how many.
        rng: the iteration's generator.

    Returns:
        (<= k, n_var) canonical vectors; fewer than `k` only where the space holds no more.
    """
    seeds = rng.integers(2**31, size=2).tolist()
    front = non_dominated(F)
    population = unique_rows(inner_search(space, predictor, cost, X[front], seeds[0]))
    fresh = population[~rows_in(population, known)]
    if len(fresh) <= k:
        return top_up(space, fresh, known, k, rng)[:k]
    return fresh[select_subset(cost(fresh), F[front, 1], k, seeds[1])]


# --------------------------------------------------------------------------------------- the search


@dataclass
class Outcome:
    """What came of one batch of proposals: the records in their order, and the failures."""

    records: list[Record]
    failures: list[tuple[str, str]]


class MSuNAS:
    """Algorithm 1 over a run folder. Every file is final once written; `run` can be cut anywhere.

    Args:
        settings: the resolved flags.
        folder: the locked run folder.
        engine: evaluates jobs, see `evaluator.jobs`.
        n_slots: how many it evaluates at a time; for the estimate of device-hours.
    """

    def __init__(self, settings: dict[str, Any], folder: RunFolder, engine: Any,
                 n_slots: int = 1) -> None:
        self.settings = settings
        self.folder = folder
        self.engine = engine
        self.n_slots = n_slots
        self.space = make_space(settings)
        self.objective = make_objective(settings, self.space)
        self.archive: list[Record] = []
        self.failed: list[Arch] = []
        self.start = time.monotonic()
        self.n_evaluated = 0
        self.spent = np.zeros(2)  # seconds and multiply-accumulates of what was evaluated
        self.n_planned = settings["n_doe"] + settings["iterations"] * settings["n_iter"]

    def run(self) -> Path:
        """Runs or continues the search and returns the path of its last stats file."""
        first, reference = self._restore()
        if first == 0:
            archs = self.space.initialize(self.settings["n_doe"], rng=self._rng(0))
            outcome = self._evaluate(archs, 0)
            reference = reference_point(objectives(outcome.records))
            self._finish_iteration(0, outcome, reference, None)
            first = 1
        for iteration in range(first, self.settings["iterations"] + 1):
            if not self._iterate(iteration, reference):
                print(f"iteration {iteration}: the space {self.space.name} holds no architecture "
                      "that was not evaluated; the search is complete")
                break
        return archives.latest_stats(self.folder.path)

    def _iterate(self, iteration: int, reference: np.ndarray) -> bool:
        rng = self._rng(iteration)
        X = self._encode([record.arch for record in self.archive])
        F = objectives(self.archive)
        predictor = get_acc_predictor(self.settings["predictor"], X, F[:, 0],
                                      seed=int(rng.integers(2**31)), lower=self.space.lower,
                                      upper=self.space.upper)
        cost = self._cost_model(X, F[:, 1])
        known = np.vstack([X, self._encode(self.failed)])
        chosen = propose(self.space, predictor, cost, X, F, known, self.settings["n_iter"], rng)
        if not len(chosen):
            return False
        outcome = self._evaluate([self.space.decode(x) for x in chosen], iteration)
        done = self._encode([record.arch for record in outcome.records])
        measured = objectives(outcome.records)[:, 0]
        predicted = predictor.predict(np.vstack([X, done]))[:, 0]
        quality = dict(zip(("rmse", "rho", "tau"), get_correlation(
            predicted, np.concatenate([F[:, 0], measured])), strict=True))
        surrogate = {"model": self.settings["predictor"], "name": predictor.name,
                     "winner": predictor.winner, **quality}
        self._finish_iteration(iteration, outcome, reference, surrogate)
        return True

    def _cost_model(self, X: np.ndarray, values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """The exact second objective; one that is measured is predicted from the archive."""
        if not self.objective.measured:
            return self.objective.values
        model = get_acc_predictor("rbf", X, values, lower=self.space.lower, upper=self.space.upper)
        return lambda vectors: model.predict(vectors)[:, 0]

    def _evaluate(self, archs: Sequence[Arch], iteration: int) -> Outcome:
        """Evaluates what is not finished on disk; every result is stored the moment it arrives."""
        slots: list[Record | tuple[str, str] | None] = [None] * len(archs)
        failures = {} if self.settings["retry_failed"] \
            else self.folder.read_failed(self.space.encode)
        for index, arch in enumerate(archs):
            slots[index] = self._finished(iteration, index, arch, failures)
        waiting = [i for i, slot in enumerate(slots) if slot is None]
        for i in waiting:
            write_json(self.folder.subnet(iteration, i), archs[i])
        bar = tqdm(total=len(archs), initial=len(archs) - len(waiting), leave=False, unit="net",
                   desc=f"iteration {iteration}", disable=not sys.stderr.isatty())
        with bar:
            work = self.objective.work(self._encode(archs))
            for index, result in self._measure(archs, waiting, work, iteration):
                slots[index] = self._store(iteration, index, result)
                bar.update()
                self._estimate(result.seconds, work[index], work.mean(), len(waiting))
        outcome = Outcome([slot for slot in slots if isinstance(slot, Record)],
                          [slot for slot in slots if not isinstance(slot, Record)])
        self.failed += [arch for arch, slot in zip(archs, slots, strict=True)
                        if not isinstance(slot, Record)]
        if not outcome.records:
            status, error = outcome.failures[0]
            raise UserError(f"all {len(archs)} evaluations of iteration {iteration} failed; the "
                            f"first one: {status}: {error} (logs in {self.folder.path}/failed; when"
                            " the cause is mended go on with --resume and --retry_failed)")
        return outcome

    def _measure(self, archs: Sequence[Arch], waiting: list[int], work: np.ndarray,
                 iteration: int) -> Iterator[tuple[int, Result]]:
        """Yields (index, result) as they come; a latency is measured when no accuracy is."""
        jobs = {f"iter_{iteration}/net_{i}": i for i in waiting}
        accuracy = [Job(name, archs[i], expected=float(work[i])) for name, i in jobs.items()]
        measured = []
        for result in self.engine.run(accuracy):
            if self.objective.measured and result.ok:
                measured.append(result)
            else:
                yield jobs[result.job.name], result
        first = {result.job.name: result for result in measured}
        for result in self.engine.run([Job(r.job.name, r.job.arch, kind="latency")
                                       for r in measured]):
            accurate = first[result.job.name]
            yield jobs[result.job.name], replace(
                result, stats={**accurate.stats, **result.stats},
                retried=accurate.retried + result.retried)

    def _finished(self, iteration: int, index: int, arch: Arch,
                  failures: dict[tuple[int, int], dict]) -> Record | tuple[str, str] | None:
        """Returns what an earlier run of this search left of the evaluation, if anything."""
        failure = failures.get((iteration, index))
        if failure and self._same(failure, arch):
            return str(failure.get("status")), str(failure.get("error"))
        subnet, stats = self.folder.subnet(iteration, index), self.folder.stats(iteration, index)
        if subnet.exists() and stats.exists() and self._same(read_arch(subnet, self.space), arch):
            return self._record(arch, archives.read_net_stats(stats))
        return None

    def _same(self, a: Arch, b: Arch) -> bool:
        return bool((self.space.encode(a) == self.space.encode(b)).all())

    def _store(self, iteration: int, index: int, result: Result) -> Record | tuple[str, str]:
        if result.retried:
            print(f"note: {result.job.name} took {result.attempts} attempts "
                  f"({'; '.join(result.retried)})", file=sys.stderr)
            self.folder.write_retried(result.job.name, result.retried)
        if not result.ok:
            self.folder.write_failed(iteration, index, result.job.arch, result.status,
                                     result.error, result.log)
            print(f"warning: {result.job.name} {result.status}: {result.error}", file=sys.stderr)
            return result.status, result.error
        self.folder.failed(iteration, index).unlink(missing_ok=True)
        write_json(self.folder.stats(iteration, index), result.stats)
        return self._record(result.job.arch, result.stats)

    def _record(self, arch: Arch, stats: dict[str, Any]) -> Record:
        cost = (stats[self.objective.device] if self.objective.measured
                else self.objective.values(self.space.encode(arch)[None])[0])
        return Record(arch, 100.0 - float(stats["top1"]), float(cost))

    def _finish_iteration(self, iteration: int, outcome: Outcome, reference: np.ndarray,
                          surrogate: dict[str, Any] | None) -> None:
        self.archive += outcome.records
        hv = normalized_hypervolume(objectives(self.archive), reference)
        empty = {"model": self.settings["predictor"], "name": None, "winner": None, "rmse": None,
                 "rho": None, "tau": None}
        archives.write_stats(self.folder.iteration(iteration), Stats(
            self.archive, outcome.records, hv, surrogate or empty,
            sec_obj=self.settings["sec_obj"], reference_point=reference.tolist(),
            extra=origin(self.settings)))
        tau = "-" if surrogate is None else f"{surrogate['tau']:.3f}"
        best = min(record.top1_err for record in self.archive)
        left = (self.settings["iterations"] - iteration) * self.settings["n_iter"]
        print(f"iteration {iteration}/{self.settings['iterations']}: {len(self.archive)} evaluated"
              f" ({len(outcome.records)} new, {len(outcome.failures)} failed), hypervolume {hv:.4f}"
              f", tau {tau}, best error {best:.2f} %, {self._clock(left)}", flush=True)

    def _restore(self) -> tuple[int, np.ndarray | None]:
        """Loads the latest finished iteration: (the next iteration, the reference point)."""
        if not any(self.folder.path.glob("iter_*.stats")):
            return 0, None
        path = archives.latest_stats(self.folder.path)
        stats = archives.read_stats(path, check_arch=self.space.encode)
        archives.check_objective(path, stats, self.settings["sec_obj"])
        self.archive = list(stats.archive)
        done = int(path.stem.removeprefix("iter_"))
        self.failed = [arch for (iteration, _), arch in self.folder.read_failed(
                           self.space.encode).items()
                       if iteration <= done and not self.settings["retry_failed"]]
        reference = stats.reference_point or reference_point(
            objectives(stats.archive[:self.settings["n_doe"]]))
        print(f"{path}: going on with {len(self.archive)} evaluated architectures after iteration "
              f"{done}", flush=True)
        return done + 1, np.asarray(reference)

    def adopt(self) -> None:
        """Takes over the folder of the original program: its archive and its finished networks.

        What no `iter_<i>.stats` holds yet, of the highest iteration in the folder, is written as
        that iteration's archive; the search then goes on with the next one.
        """
        numbers = [int(path.stem.removeprefix("iter_")) for path in self.folder.path.glob("iter_*")
                   if path.stem.removeprefix("iter_").isdecimal()]
        last = max(numbers, default=0)
        if self.folder.iteration(last).exists():
            return
        _, reference = self._restore()
        known = self._encode([record.arch for record in self.archive])
        folders = [self.folder.path]
        folders += [self.folder.path / f"iter_{i}" for i in sorted(set(numbers))]
        key = self.objective.device if self.objective.measured else "flops"
        found = [record for folder in folders if folder.is_dir() for record in
                 archives.read_evaluations(folder, key, check_arch=self.space.encode)]
        if not self.objective.measured:
            exact = self.objective.values(self._encode([record.arch for record in found]))
            found = [record._replace(sec_obj=value)
                     for record, value in zip(found, exact.tolist(), strict=True)]
        new = ~rows_in(self._encode([record.arch for record in found]), known)
        records = [record for record, is_new in zip(found, new, strict=True) if is_new]
        if not records and not self.archive:
            raise UserError(f"{self.folder.path}: holds no evaluated architecture to go on with")
        if reference is None:
            reference = reference_point(objectives(records))
        self._finish_iteration(last, Outcome(records, []), reference, None)
        self.archive = []

    def _encode(self, archs: Sequence[Arch]) -> np.ndarray:
        return np.array([self.space.encode(a) for a in archs], int).reshape(-1, self.space.n_var)

    def _rng(self, iteration: int) -> np.random.Generator:
        """The generator of an iteration: it depends on the seed and the number alone."""
        return np.random.default_rng([self.settings["seed"], iteration])

    def _estimate(self, seconds: float, work: float, mean_work: float, batch: int) -> None:
        """Counts an evaluation and, after the first ones, prints what the search will take.

        Jobs start with the largest networks, so seconds are put in proportion to their work.
        """
        self.n_evaluated += 1
        self.spent += np.array([seconds, work])
        if self.n_evaluated == min(batch, ESTIMATE_AFTER):
            total = self.spent[0] / self.spent[1] * mean_work * self.n_planned
            print(f"estimate from the first {self.n_evaluated}: {duration(total / self.n_slots)} "
                  f"for {self.n_planned} evaluations, {total / 3600:.2f} device-hours", flush=True)

    def _clock(self, left: int) -> str:
        elapsed = time.monotonic() - self.start
        rest = elapsed / self.n_evaluated * left if self.n_evaluated else 0.0
        return f"{duration(elapsed)} elapsed, {duration(rest)} left"


# ------------------------------------------------------------------------------------ command line


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser; flags of the original keep their names and defaults."""
    p = TypedFlagsParser(prog="msunas.py", description=__doc__.splitlines()[0],
                         formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run = p.add_argument_group("run")
    run.add_argument("--save", default=".tmp", help="folder of the search; must be empty")
    run.add_argument("--resume", help="folder of a search to go on with, ours or the original's; "
                     "with another --save it is copied there first")
    run.add_argument("--accept_changed_inputs", action="store_true", help="with --resume: go on "
                     "although the supernet, the table or the data have changed since")
    run.add_argument("--seed", type=count(0, 2**63), default=0, help="seed of every random draw")
    run.add_argument("--dry_run", action="store_true",
                     help="print the plan and its estimated cost, evaluate nothing")
    search = p.add_argument_group("search")
    search.add_argument("--search_space", choices=sorted(SEARCH_SPACES), default="mbv3",
                        help="the architectures")
    search.add_argument("--resolutions", help="input resolutions, as 192:256:4 (first:last:step) "
                        "or 192,224,256 (default: the data set's)")
    search.add_argument("--sec_obj", default="flops", help=f"second objective: {OBJECTIVES}")
    search.add_argument("--lut", help="latency table for --sec_obj cpu, or 'measure' to time the "
                        f"networks themselves (default: {DEFAULT_LUT})")
    search.add_argument("--iterations", type=count(0), default=30,
                        help="iterations after the initial sample; 0 is random search")
    search.add_argument("--n_doe", type=count(2), default=100, help="size of the initial sample")
    search.add_argument("--n_iter", type=count(1), default=8,
                        help="architectures evaluated in each iteration")
    search.add_argument("--predictor", choices=sorted(PREDICTORS), default="rbf",
                        help="accuracy predictor to fit")
    data = p.add_argument_group("data and evaluation")
    data.add_argument("--data", help="folder of the data set (digits needs none)")
    data.add_argument("--dataset", choices=sorted(DATASETS), default="imagenet", help="data set")
    data.add_argument("--n_classes", type=count(1), help="classes (default: the data set's, "
                      "1000 for imagenet)")
    data.add_argument("--supernet_path", help="supernet checkpoint (default: the data set's, "
                      "./data/ofa_mbv3_d234_e346_k357_w1.0 for imagenet)")
    data.add_argument("--vld_size", type=count(1), help="validation images split off the training "
                      "set (default: none, the test images are used; 300 for digits)")
    data.add_argument("--trn_batch_size", type=count(1), help="batch size of fine-tuning "
                      "(default: the data set's, 128 for imagenet)")
    data.add_argument("--vld_batch_size", type=count(1), default=200,
                      help="batch size of validation")
    data.add_argument("--n_epochs", type=count(0), help="epochs of fine-tuning in an evaluation "
                      "(default: the data set's: 0 for imagenet and digits, else 5)")
    data.add_argument("--test", action="store_true", help="score on the test images")
    data.add_argument("--evaluator", default="ofa", help="what answers: "
                      f"{', '.join(sorted(EVALUATORS))} (a benchmark's ground truth), or a class "
                      "of your own as module:Class, see evaluator.build_evaluator")
    data.add_argument("--oracle_path", help="the accuracy predictor that --evaluator oracle asks")
    data.add_argument("--amp", action="store_true", help="evaluate in mixed precision")
    data.add_argument("--cache_dir", help="folder for decoded images (default: $MSUNAS_CACHE or "
                      "~/.cache/msunas)")
    data.add_argument("--cache_gb", type=amount, default=32.0, help="its greatest size in GiB")
    devices = p.add_argument_group("devices and faults")
    devices.add_argument("--n_gpus", type=count(0), default=8,
                         help="GPUs to use, at most those present; 0, or none present: the CPU")
    devices.add_argument("--gpu", type=count(1), default=1, help="GPUs per evaluation")
    devices.add_argument("--cpu_workers", type=count(1),
                         help="evaluations at a time on the CPU (default: one per core)")
    devices.add_argument("--n_workers", type=count(0), default=4,
                         help="data-loading processes per evaluation, where images are streamed")
    devices.add_argument("--backend", choices=("local", "ray"), default="local",
                         help="this machine, or a Ray cluster (requirements-ray.txt)")
    devices.add_argument("--ray_address", default="auto", help="address of the Ray "
                         "cluster; auto: the running one, else one that is started here")
    devices.add_argument("--timeout", type=amount, help="seconds after which an evaluation is "
                         "stopped and recorded as failed (default: none)")
    devices.add_argument("--memory_limit", type=amount, metavar="GIB", help="addresses that "
                         "a worker on the CPU may use (default: no limit)")
    devices.add_argument("--retries", type=count(0), default=2,
                         help="new attempts when a worker or a node is lost")
    devices.add_argument("--retry_failed", action="store_true",
                         help="with --resume: evaluate and propose again what failed before")
    return p


def parse_resolutions(text: str) -> list[int]:
    """Returns the resolutions of `192:256:4` (last included) or `192,224,256`."""
    try:
        if ":" in text:
            first, last, step = map(int, text.split(":"))
            found = range(first, last + 1, step)
        else:
            found = [int(part) for part in text.split(",")]
        if not found or any(r not in RESOLUTIONS for r in found):
            raise ValueError
    except ValueError:
        raise UserError(f"--resolutions {text[:60]!r}: write first:last:step, as 192:256:4, or a "
                        f"list, as 192,224,256, of {RESOLUTIONS[0]}..{RESOLUTIONS[-1]} pixels") \
            from None
    return list(found)


def resolve(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings of a run: the flags, with what the data set's row decides filled in.

    Raises:
        UserError: a flag that contradicts the data set, or lacks its partner.
    """
    settings = {key: value for key, value in vars(args).items() if key != "typed"}
    info = get_dataset_info(args.dataset)
    row = {"supernet_path": info.supernet, "vld_size": info.vld_size,
           "trn_batch_size": info.batch_size, "n_epochs": info.n_epochs}
    if args.test:
        row["vld_size"] = None
    settings |= {key: value for key, value in row.items() if settings[key] is None}
    settings["n_classes"] = info.check_n_classes(settings["n_classes"], args.data)
    if args.resolutions is None:
        settings["resolutions"] = list(info.resolutions)
    elif isinstance(args.resolutions, str):
        settings["resolutions"] = parse_resolutions(args.resolutions)
    if args.evaluator == "oracle" and not args.oracle_path:
        raise UserError("--evaluator oracle needs --oracle_path, the accuracy predictor to ask")
    settings["lut"] = args.lut or DEFAULT_LUT
    return settings


def resume_settings(args: argparse.Namespace, stored: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a resumed run: what was typed, else what is stored.

    Raises:
        UserError: a typed flag that would change the results differs from the stored one.
    """
    check_code(args.resume, stored, args.typed)
    flags = dict(stored)
    if isinstance(stored.get("resolutions"), list):  # as they are typed
        flags["resolutions"] = ",".join(map(str, stored["resolutions"]))
    flags = checked_values(get_args_parser(), flags, f"{args.resume}: settings")
    merged = {key: value if key in args.typed else flags.get(key, value)
              for key, value in vars(args).items()}
    settings = resolve(argparse.Namespace(**merged))
    changed = [f"--{key} is {settings[key]}, was {stored[key]}" for key in sorted(args.typed)
               if key not in CHANGEABLE and key in stored and settings[key] != stored[key]]
    if changed:
        raise UserError(f"{args.resume}: the search was started with other flags: "
                        f"{'; '.join(changed)}; leave them out, or start anew in another --save")
    return settings


def make_space(settings: dict[str, Any]) -> SearchSpace:
    """Returns the search space of a run."""
    return get_search_space(settings["search_space"], resolutions=settings["resolutions"])


def make_objective(settings: dict[str, Any], space: SearchSpace) -> SecondObjective:
    """Returns the second objective of a run."""
    lut = None if settings["lut"] == "measure" else settings["lut"]
    return SecondObjective(settings["sec_obj"], space, n_classes=settings["n_classes"],
                           width_mult=width_from_name(settings["supernet_path"]), lut=lut)


def make_spec(settings: dict[str, Any], objective: SecondObjective) -> EvaluatorSpec:
    """Returns how the workers build their evaluator."""
    paths = {key: settings[key] and os.path.abspath(settings[key])
             for key in ("data", "supernet_path", "oracle_path", "cache_dir")}
    options = {key: settings[key] for key in (
        "dataset", "n_classes", "vld_size", "test", "n_workers", "trn_batch_size",
        "vld_batch_size", "n_epochs", "seed", "amp", "cache_gb")}
    if objective.measured:
        options |= {"latency_batch_size": objective.batch_size,
                    "latency_device": objective.device}
    return EvaluatorSpec(settings["evaluator"], paths | options)


def origin(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns what a stats file says of its source where that is not a supernet's accuracy."""
    return {} if settings["evaluator"] == "ofa" else {"evaluator": settings["evaluator"]}


def duration(seconds: float) -> str:
    """Returns seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def print_plan(settings: dict[str, Any], n_slots: int) -> None:
    """Prints what the search would do and how much work that is; evaluates nothing."""
    space = make_space(settings)
    objective = make_objective(settings, space)
    sample = space.draw(1000, np.random.default_rng(settings["seed"]))
    evaluations = settings["n_doe"] + settings["iterations"] * settings["n_iter"]
    info = get_dataset_info(settings["dataset"])
    images = CALIBRATION_IMAGES + (settings["vld_size"] or info.n_test or 0)
    # A training step costs about three forward passes.
    images += 3 * settings["n_epochs"] * (info.n_train or 0)
    macs = float(objective.work(sample).mean()) * images
    print(f"plan: {evaluations} evaluations ({settings['n_doe']} initial, {settings['iterations']} "
          f"iterations of {settings['n_iter']}), {n_slots} at a time, into {settings['save']}")
    print(f"an evaluation passes about {images} images through the network: {macs / 1e12:.3g} TMAC"
          f" on average; all of them: {macs * evaluations / 1e15:.3g} PMAC")
    seconds = evaluations * macs / CPU_MACS_PER_SECOND
    print(f"at {CPU_MACS_PER_SECOND / 1e9:.0f} GMAC/s, which one CPU core of the build machine "
          f"reached: {duration(seconds / n_slots)}, {seconds / 3600:.2f} device-hours; the first "
          "evaluations of a run give a better estimate")


def prepare(args: argparse.Namespace) -> tuple[RunFolder, RunFolder | None, dict[str, Any]]:
    """Returns the run's folder, the folder to copy into it first, and the settings.

    Raises:
        UserError: the folder is in use by other results, or the flags differ from the stored.
    """
    if args.resume is None:
        folder = RunFolder(args.save)
        if not folder.has_no_result():
            raise UserError(f"{args.save}: not empty; go on with --resume {args.save}, or choose "
                            "another --save")
        return folder, None, resolve(args)
    if not args.resume:
        raise UserError("--resume '': names no folder; name the --save of a search")
    source = RunFolder(args.resume)
    source.check_search()
    settings = resume_settings(args, source.read_settings())
    settings["save"] = args.save if "save" in args.typed else args.resume
    settings["resume"] = None
    folder = RunFolder(settings["save"])
    if folder.path.resolve() == source.path.resolve():
        return folder, None, settings
    if not folder.is_empty():
        raise UserError(f"{settings['save']}: not empty; choose another --save for the copy of "
                        f"{args.resume}")
    return folder, source, settings


def interrupt(*_) -> None:
    """Ends the search as Ctrl-C does; a job in the background ignores Ctrl-C, but not this."""
    raise KeyboardInterrupt


def run_to_the_end(search: MSuNAS) -> Path:
    """Runs the search; workers that cannot start are one line, their log a file beside it."""
    try:
        return search.run()
    except WorkerError as error:
        log = search.folder.path / "failed" / "worker.log"
        write_text(log, f"{error}\n")
        raise UserError(f"{str(error).splitlines()[0]} (log in {log}; mend the cause and go on "
                        f"with: {resume_command(search.settings)})") from None


def main(args: argparse.Namespace) -> None:
    """Runs, resumes, or plans a search."""
    if not is_compiled():
        print("warning: pymoo's compiled functions are missing, the search will be slower; "
              "reinstall pymoo from its wheel", file=sys.stderr)
    folder, source, settings = prepare(args)
    ray_address = settings["ray_address"] if settings["backend"] == "ray" else None
    slots = plan_slots(settings["n_gpus"], settings["gpu"], settings["cpu_workers"],
                       ray_address=ray_address)
    if args.dry_run:
        print_plan(settings, len(slots))
        return
    objective = make_objective(settings, make_space(settings))  # bad input fails before the lock
    signal.signal(signal.SIGTERM, interrupt)
    try:
        settings["inputs"] = fingerprints(settings)
        stored = (source or folder).read_settings().get("inputs")
        if args.resume and not args.accept_changed_inputs:
            check_inputs(args.resume, stored, settings["inputs"])
        if source is not None:
            folder.import_from(source)
        with folder.lock():
            adopting = bool(args.resume) and not folder.settings.exists()
            folder.remove_leftovers()
            if not args.resume:
                folder.remove_proposals()
            if not adopting:
                folder.write_settings(settings)
            limit = settings["memory_limit"]
            engine = get_engine(settings["backend"], make_spec(settings, objective), slots=slots,
                                timeout=settings["timeout"], retries=settings["retries"],
                                memory_limit=limit and int(limit * GIB),
                                ray_address=ray_address)
            with engine:
                search = MSuNAS(settings, folder, engine, len(slots))
                if adopting:
                    search.adopt()
                    folder.write_settings(settings)
                last = run_to_the_end(search)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on with: {resume_command(settings)}") from None
    command = shlex.join(["python", "post_search.py", "--expr", str(last), "--save",
                          f"{settings['save']}/selected", "--supernet_path",
                          settings["supernet_path"]])
    print(f"done: {last}; choose networks with: {command}")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
