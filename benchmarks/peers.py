"""Other programs on the benchmarks of quality.py, as further columns of its tables.

    PEERS/bin/python benchmarks/peers.py DATA [--benchmarks mbv3-224] [--seeds 10-19]
        [--peers pymoo-NSGA2 dynast-LINAS] [--budget 340] [--save FOLDER]

PEERS is an environment of their own, with requirements.lock and requirements-peers.lock; DyNAS-T is
added as requirements-peers.txt says. An architecture that is proposed again costs nothing, up to
three proposals for each evaluation of the budget. To all but BoTorch, both objectives are unknown.

- Optuna: TPESampler, GPSampler and NSGAIISampler; BoTorch: the exact objectives are a deterministic
  model, proposals in batches of 8 climb from neighbour to neighbour, as a gradient means little
  between whole numbers; pymoo: NSGA-II as its documentation sets it up for integers. These start
  from the initial sample of 40 that `ehvi` starts from.
- DyNAS-T (`mbv3-224` only, the input size of its own supernet): LINAS and NSGA-II with their
  defaults, which are 50 random architectures at the start and 50 for each generation.

Besides what quality.py writes, `peers.md` in --save has the peers and ours in one table.
"""

import argparse
import contextlib
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
from common import benchmark_parser, machine, publish, table
from quality import (
    BATCH,
    BENCHMARKS,
    BUDGETS,
    PEERS,
    SMALL_DOE,
    common_flags,
    curves_of,
    fill,
    hypervolumes,
)

from cli.scripts import run_script
from search import Search
from search.comparison import mean_rows
from search.constraints import initial_sample
from search.evaluation import Evaluations
from search.strategies.ehvi import Front
from utils.errors import UserError
from utils.files import read_json

PROPOSALS = 3
# The benchmark of DyNAS-T's own supernet, whose input is 224 px wide.
DYNAST = "mbv3-224"
SHOWN = (100, 140, 220, 340)  # evaluations in the table
# BoTorch's search among neighbours, and its samples of the posterior.
RESTARTS, RAW_SAMPLES, MC_SAMPLES = 8, 512, 64


class BudgetSpentError(Exception):
    """Ends a search."""


class Counter:
    """Evaluates each architecture once and keeps what came out, in order.

    Args:
        search: names the space, the objectives and the evaluator.
        budget: how many different architectures there are at most.

    Attributes:
        objectives: besides the error.
        X, F: (a, n_var) canonical vectors and (a, m) minimised objectives so far.
        asked: how many vectors were asked for, known ones included.
    """

    def __init__(self, search: Search, budget: int) -> None:
        self.space, self.budget, self.asked = search.space, budget, 0
        self.objectives = search.objectives
        self._run = Evaluations(search.space, search.objectives, search.engine, None,
                                search.costs, search.progress).run
        self._signs = search.signs
        self._known: dict[bytes, int] = {}
        self.X = np.zeros((0, search.space.n_var), dtype=int)
        self.F = np.zeros((0, len(search.signs)))

    @property
    def done(self) -> bool:
        """Whether the budget is spent, of evaluations or of proposals."""
        return len(self.X) >= self.budget or self.asked >= PROPOSALS * self.budget

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Returns the (m,) minimised objectives of one (n_var,) vector.

        Raises:
            BudgetSpentError: instead of an evaluation or proposal beyond the budget.
        """
        if self.done:
            raise BudgetSpentError
        x = self.space.canonical(np.asarray(x, dtype=int)[None])
        self.asked += 1
        key = x.tobytes()
        if key not in self._known:
            (record,) = self._run([self.space.decode(x[0])], x, [(0, 0)])
            self._known[key] = len(self.X)
            self.X = np.vstack([self.X, x])
            self.F = np.vstack([self.F, self._signs * (record.top1_err, *record.values)])
        return self.F[self._known[key]]


def with_optuna(evaluate: Counter, start: np.ndarray, seed: int, sampler: str) -> None:
    """Spends the budget with a sampler of Optuna, a gene for each parameter."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = evaluate.space
    made = {"GPSampler": lambda: optuna.samplers.GPSampler(
                seed=seed, n_startup_trials=len(start), deterministic_objective=True),
            "NSGAIISampler": lambda: optuna.samplers.NSGAIISampler(
                seed=seed, population_size=len(start)),
            "TPESampler": lambda: optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=len(start), multivariate=True)}[sampler]()
    study = optuna.create_study(directions=["minimize"] * evaluate.F.shape[1], sampler=made)
    for x in start:
        study.enqueue_trial({f"g{i}": int(value) for i, value in enumerate(x)})
    bounds = list(zip(space.lower.tolist(), space.upper.tolist(), strict=True))

    def gene(trial: Any, i: int) -> int:
        low, high = bounds[i]
        if space.genes[i].ordered:
            return int(trial.suggest_int(f"g{i}", low, high))
        return int(trial.suggest_categorical(f"g{i}", list(range(low, high + 1))))

    while True:
        trial = study.ask()
        x = np.array([gene(trial, i) for i in range(space.n_var)])
        study.tell(trial, evaluate(x).tolist())


def with_botorch(evaluate: Counter, start: np.ndarray, seed: int, name: str) -> None:
    """Spends the budget with qLogEHVI over the whole numbers, in batches."""
    import torch
    from botorch.acquisition.multi_objective.logei import qLogExpectedHypervolumeImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.models.deterministic import GenericDeterministicModel
    from botorch.models.model import ModelList
    from botorch.optim import optimize_acqf_discrete_local_search
    from botorch.sampling.get_sampler import get_sampler
    from botorch.utils.multi_objective.box_decompositions.non_dominated import (
        FastNondominatedPartitioning,
    )
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    space = evaluate.space
    width = torch.tensor(np.maximum(space.upper - space.lower, 1), dtype=torch.double)
    low = torch.tensor(space.lower, dtype=torch.double)

    def scaled(X: np.ndarray) -> "torch.Tensor":
        return (torch.tensor(X, dtype=torch.double) - low) / width

    def whole(Z: "torch.Tensor") -> np.ndarray:
        X = (Z.detach() * width + low).round().long().numpy()
        return space.canonical(X.reshape(-1, space.n_var)).reshape(X.shape)

    class OfCanonical(SingleTaskGP):
        """A Gaussian process to which equal architectures are equal."""

        def posterior(self, X: "torch.Tensor", *args: Any, **options: Any) -> Any:
            return super().posterior(scaled(whole(X)), *args, **options)

    def counted(objective: Any) -> Callable[["torch.Tensor"], "torch.Tensor"]:
        def values(Z: "torch.Tensor") -> "torch.Tensor":
            X = whole(Z)
            found = -objective.sign * objective.values(X.reshape(-1, space.n_var))
            return torch.tensor(found, dtype=torch.double).reshape(*X.shape[:-1], 1)
        return values

    def gp(Z: "torch.Tensor", values: np.ndarray) -> SingleTaskGP:
        model = OfCanonical(Z, torch.tensor(-values, dtype=torch.double)[:, None])
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        return model

    choices = [(torch.arange(lower, upper + 1, dtype=torch.double) - lower) / max(upper - lower, 1)
               for lower, upper in zip(space.lower.tolist(), space.upper.tolist(), strict=True)]
    for x in start:
        evaluate(x)
    while True:
        Z = scaled(evaluate.X)
        models = [gp(Z, evaluate.F[:, 0])] + [
            GenericDeterministicModel(counted(objective)) if objective.exact
            else gp(Z, evaluate.F[:, i]) for i, objective in enumerate(evaluate.objectives, 1)]
        known = any(objective.exact for objective in evaluate.objectives)
        kind = ModelList if known else ModelListGP
        model = kind(*models)
        reference = torch.tensor(-Front.of(evaluate.F).reference)
        acquisition = qLogExpectedHypervolumeImprovement(
            model=model, ref_point=reference, partitioning=FastNondominatedPartitioning(
                reference, torch.tensor(-evaluate.F)),
            sampler=get_sampler(model.posterior(Z[:1]), torch.Size([MC_SAMPLES]),
                                seed=1000 * seed + len(evaluate.X)))
        with torch.no_grad():
            found, _ = optimize_acqf_discrete_local_search(
                acquisition, choices, q=BATCH, num_restarts=RESTARTS, raw_samples=RAW_SAMPLES,
                X_avoid=Z)
        for x in whole(found):
            evaluate(x)


def with_pymoo(evaluate: Counter, start: np.ndarray, seed: int, name: str) -> None:
    """Spends the budget with NSGA-II and the operators that pymoo documents for integers."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.optimize import minimize

    class Measured(Problem):  # type: ignore[misc, unused-ignore]
        """The benchmark as a problem of pymoo."""

        def _evaluate(self, X: np.ndarray, out: dict[str, Any], *args: Any, **options: Any) -> None:
            out["F"] = np.array([evaluate(x) for x in X])

    space = evaluate.space
    operators = {"prob": 1.0, "eta": 3.0, "vtype": float, "repair": RoundingRepair()}
    algorithm = NSGA2(pop_size=len(start), sampling=start, crossover=SBX(**operators),
                      mutation=PM(**operators))
    minimize(Measured(space.n_var, evaluate.F.shape[1], xl=space.lower, xu=space.upper), algorithm,
             ("n_eval", PROPOSALS * evaluate.budget), seed=seed)


def with_dynast(evaluate: Counter, start: np.ndarray, seed: int, tactic: str) -> None:
    """Spends the budget with a tactic of DyNAS-T, on its description of the same supernet."""
    # Its language supernets need fairseq, which has no wheel for Python 3.11; nothing uses them.
    for name in ("machine_translation.transformer", "text_classification.bert"):
        for part in ("encoding", "interface"):
            sys.modules[f"dynast.supernetwork.{name}_{part}"] = MagicMock()
    from dynast.search import search_tactic
    from joblib import parallel_config

    logging.disable()
    space = evaluate.space

    class Runner(search_tactic.OFARunner):  # type: ignore[misc, unused-ignore]
        """Answers from the benchmark where DyNAS-T would measure its supernet."""

        def __init__(self, acc_predictor: Any = None, macs_predictor: Any = None,
                     **ignored: Any) -> None:
            self.acc_predictor, self.macs_predictor = acc_predictor, macs_predictor
            self.top1 = float("nan")

        def validate_macs_params(self, subnet_cfg: dict[str, Any],
                                 device: object = None) -> tuple[float, int]:
            """Returns the MFLOPs, which DyNAS-T asks for first; keeps the accuracy."""
            used = [4 * stage + i for stage, depth in enumerate(subnet_cfg["d"])
                    for i in range(depth)]
            arch = {"d": subnet_cfg["d"], "r": subnet_cfg["r"][0],
                    **{key: [subnet_cfg[key][i] for i in used] for key in ("ks", "e")}}
            error, mflops = evaluate(space.encode(arch))
            self.top1 = 100 - error
            return mflops, 0

        def validate_top1(self, subnet_cfg: dict[str, Any], device: object = None) -> float:
            """Returns the accuracy in percent."""
            return self.top1

    search_tactic.OFARunner = Runner
    made = {"LINAS": search_tactic.LINAS, "NSGA2": search_tactic.Evolutionary}[tactic]
    objectives = ["macs", "accuracy_top1"]
    with (tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()),
          parallel_config(backend="sequential")):
        search = made(supernet="ofa_mbv3_d234_e346_k357_w1.0", optimization_metrics=objectives,
                      measurements=objectives, num_evals=PROPOSALS * evaluate.budget,
                      results_path=f"{folder}/results.csv", seed=seed)
        # DyNAS-T has them in the order of a set, which differs from run to run
        search.optimization_metrics = objectives
        search.search()


# (evaluations, initial sample, seed, name of the sampler or tactic)
PEER_LIBRARIES: dict[str, Callable[[Counter, np.ndarray, int, str], None]] = {
    "optuna": with_optuna, "botorch": with_botorch, "pymoo": with_pymoo, "dynast": with_dynast}


def curve(data: str, benchmark: str, peer: str, seed: int,
          budget: int = BUDGETS[-1]) -> list[float]:
    """Returns the hypervolume after each budget of one search of `budget` evaluations."""
    warnings.filterwarnings("ignore")
    search = BENCHMARKS[benchmark].search(Path(data), "ehvi", seed)
    start = initial_sample(search.space, SMALL_DOE, np.random.default_rng([seed, 0]))
    evaluate = Counter(search, budget)
    library, _, name = peer.partition("-")
    with contextlib.suppress(BudgetSpentError):
        PEER_LIBRARIES[library](evaluate, start, seed, name)
    return hypervolumes(evaluate.F, benchmark, budget)


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    common_flags(p)
    p.set_defaults(benchmarks=[DYNAST])
    p.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="which")
    p.add_argument("--budget", type=int, choices=BUDGETS, default=BUDGETS[-1],
                   help="evaluations of a search; fewer where a peer is slow")
    return p


def main(args: argparse.Namespace) -> None:
    """Runs the searches that are missing, and writes what quality.py writes, and `peers.md`."""
    dynast = [peer for peer in args.peers if peer.startswith("dynast")]
    if dynast and args.benchmarks != [DYNAST]:
        raise UserError(f"{dynast[0]} runs on {DYNAST} alone; name the others with --peers")
    fill(args, args.peers, partial(curve, budget=args.budget))
    known = read_json(args.save / "quality.json", "curves")
    publish(f"{machine()}\n" + "".join(summary(known, name) for name in BENCHMARKS),
            args.save / "peers.md")


def summary(known: dict[str, Any], benchmark: str) -> str:
    """Returns the table of one benchmark, in Markdown; nothing where no peer has a curve."""
    curves = curves_of(known, benchmark)
    if not curves.keys() & set(PEERS):
        return ""
    at = [BUDGETS.index(budget) for budget in SHOWN]
    rows = mean_rows({column: values[:, at] for column, values in curves.items()})
    error, value = BENCHMARKS[benchmark].reference
    return (f"\n## {benchmark}\n\nMean ± standard error of the hypervolume after so many "
            f"evaluations, reference point ({error:g} %, {value:g}).\n\n"
            + table(("strategy", "seeds", *SHOWN), rows) + "\n")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
