"""Optuna and BoTorch on the benchmarks of quality.py, as further columns of its tables.

    PEERS/bin/python benchmarks/peers.py DATA [--benchmarks mbv3] [--seeds 10-12] [--budget 340]
        [--save FOLDER]

PEERS is an environment of their own, with requirements.lock and requirements-peers.lock. All start
from the initial sample of 40 that `ehvi` starts from. To Optuna both objectives are unknown;
BoTorch gets the exact ones (a deterministic model), proposes batches of 8, and climbs from
neighbour to neighbour, as a gradient means little between whole numbers. An architecture that is
proposed again costs nothing, up to three proposals for each evaluation of the budget.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import benchmark_parser
from quality import BATCH, BENCHMARKS, BUDGETS, PEERS, SMALL_DOE, common_flags, fill, hypervolumes

from cli.scripts import run_script
from search import Search
from search.constraints import initial_sample
from search.evaluation import Evaluations
from search.strategies.ehvi import Front

PROPOSALS = 3
# BoTorch's search among neighbours, and its samples of the posterior.
RESTARTS, RAW_SAMPLES, MC_SAMPLES = 8, 512, 64


class Counter:
    """Evaluates each architecture once and keeps what came out, in order.

    Args:
        search: names the space, the objectives and the evaluator.
        budget: how many different architectures there are at most.

    Attributes:
        X, F: (a, n_var) canonical vectors and (a, m) minimised objectives so far.
        asked: how many vectors were asked for, known ones included.
    """

    def __init__(self, search: Search, budget: int) -> None:
        self.space, self.budget, self.asked = search.space, budget, 0
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
        """Returns the (m,) minimised objectives of one (n_var,) vector."""
        x = self.space.canonical(np.asarray(x, dtype=int)[None])
        self.asked += 1
        key = x.tobytes()
        if key not in self._known:
            (record,) = self._run([self.space.decode(x[0])], x, 0)
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

    while not evaluate.done:
        trial = study.ask()
        x = np.array([gene(trial, i) for i in range(space.n_var)])
        study.tell(trial, evaluate(x).tolist())


def with_botorch(evaluate: Counter, start: np.ndarray, seed: int, objectives: list[Any]) -> None:
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
    while not evaluate.done:
        Z = scaled(evaluate.X)
        models = [gp(Z, evaluate.F[:, 0])] + [
            GenericDeterministicModel(counted(objective)) if objective.exact
            else gp(Z, evaluate.F[:, i]) for i, objective in enumerate(objectives, 1)]
        kind = ModelList if any(objective.exact for objective in objectives) else ModelListGP
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


def curve(data: str, benchmark: str, peer: str, seed: int,
          budget: int = BUDGETS[-1]) -> list[float]:
    """Returns the hypervolume after each budget of one search of `budget` evaluations."""
    warnings.filterwarnings("ignore")
    search = BENCHMARKS[benchmark].search(Path(data), "ehvi", seed)
    start = initial_sample(search.space, SMALL_DOE, np.random.default_rng([seed, 0]))
    evaluate = Counter(search, budget)
    library, _, sampler = peer.partition("-")
    if library == "optuna":
        with_optuna(evaluate, start, seed, sampler)
    else:
        with_botorch(evaluate, start, seed, search.objectives)
    return hypervolumes(evaluate.F, benchmark, budget)


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    common_flags(p)
    p.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="which")
    p.add_argument("--budget", type=int, choices=BUDGETS, default=BUDGETS[-1],
                   help="evaluations of a search; fewer where a peer is slow")
    return p


def main(args: argparse.Namespace) -> None:
    """Runs the searches that are missing, and writes what quality.py writes."""
    fill(args, args.peers, partial(curve, budget=args.budget))


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
