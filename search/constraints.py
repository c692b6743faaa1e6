"""Limits such as `flops<=300,top1>=75`: parsed, checked, and held while searching.

A limit on a learned latency may ask for a probability: `cpu@pi<=5:0.9`.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from evaluator.costs import COUNTED
from search.evolution import offspring
from search.objectives import ERROR, LATENCY, Objective, SpaceCosts, Values
from search.strategies.base import Strategy, Task
from search.surrogate import Surrogate
from search_space import SearchSpace
from search_space.base import unique_rows
from utils.errors import UserError

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
# A round of the search for architectures within the constraints, and how many there are at most.
ROUND, MAX_ROUNDS = 1000, 60
ELITE = 100
STRICT = 1e-9
UNITS = {"M": "millions", "MB": "MB"}
# Rounds of the search for what comes nearest to limits that nothing is predicted to be within.
APPROACH = 5


@dataclass(frozen=True)
class Limit:
    """One part of a constraint: `name comparison bound`, and with which probability it holds."""

    name: str
    comparison: str
    bound: float
    probability: float | None = None

    def __str__(self) -> str:
        probability = "" if self.probability is None else f":{self.probability:g}"
        return f"{self.name}{self.comparison}{self.bound:g}{probability}"

    @property
    def sign(self) -> float:
        """1 where the limit is an upper one, else -1."""
        return 1.0 if self.comparison.startswith("<") else -1.0

    def cautious(self, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Returns the (n,) values that normal ones do not pass with the probability of the limit.

        Source: a chance constraint of a normal variable, Charnes and Cooper (1959).
        """
        return mean + self.sign * float(ndtri(self.probability)) * std

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Returns (n,) bool: which of the (n,) values are within the limit."""
        return np.asarray(COMPARISONS[self.comparison](values, self.bound))

    def violation(self, values: np.ndarray) -> np.ndarray:
        """Returns (n,) how far values are beyond the limit, in units of the bound; 0 within."""
        beyond = self.sign * (values - self.bound) / (abs(self.bound) or 1.0)
        return np.where(self.holds(values), 0.0, np.maximum(beyond, STRICT))


def parse_number(text: str, place: str) -> float:
    """Returns a finite number >= 0; raises UserError naming the `place` for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{place}: {text!r} must be a number >= 0, as 150 or 15.2")
    return value


def parse_limits(text: str | None, name_of: Callable[[str, str], str],
                 example: str = "flops") -> list[Limit]:
    """Returns the limits of `flops<=300,top1>=75`; [] for None.

    Args:
        text: limits joined by commas.
        name_of: (name, place for messages) -> the objective that is meant; raises UserError.
        example: an objective for messages.

    Raises:
        UserError: malformed, or an unknown name.
    """
    limits, place = [], f"constraint {text!r}"
    for part in text.split(",") if text is not None else []:
        parts = re.fullmatch(r"\s*([\w@]+)\s*(<=|>=|<|>)(.*)", part, re.DOTALL)
        if not parts:
            raise UserError(f"{place}: write objective, <= or >=, and a value, joined by commas, "
                            f"as {example}<=300,{ERROR}>=75")
        bound, colon, wanted = parts[3].partition(":")
        probability = parse_number(wanted, place) if colon else None
        if probability is not None and not 0 < probability < 1:
            raise UserError(f"{place}: the probability {wanted} must be between 0 and 1")
        limits.append(Limit(name_of(parts[1], place), parts[2], parse_number(bound, place),
                            probability))
    return limits


def idle_limits(limits: Sequence[Limit], values: Mapping[str, np.ndarray],
                what: str) -> list[str]:
    """Returns a line for each limit that excludes nothing, which names the unit.

    Args:
        limits: of a constraint.
        values: (n,) of what there is, by the names of limits; others are not judged, but a
            percentage of 1 or less is taken for a fraction.
        what: there is, such as `architecture`.
    """
    return [f"constraint {limit}: every {what} is within it{_in_unit(limit.name)}"
            for limit in limits if (
                limit.holds(values[limit.name]).all() if limit.name in values
                else limit.name == ERROR and limit.bound <= 1 and limit.comparison[0] == ">")]


def _in_unit(name: str) -> str:
    unit = UNITS.get(COUNTED.get(name, ""), "") or (
        "percent" if name == ERROR else "ms" if LATENCY.fullmatch(name) else "")
    return unit and f"; {name} is in {unit}"


class Constraints:
    """The limits of a search. Exact ones hold always, the others as the surrogate predicts.

    Args:
        text: see `parse_limits`; names of counted costs, of latencies by a table, of the search's
            objectives, or `top1`.
        objectives: of the search, without the error.
        costs: of the space.

    Raises:
        UserError: malformed, or a name that nothing gives a value for.
    """

    def __init__(self, text: str | None, objectives: Sequence[Objective],
                 costs: SpaceCosts) -> None:
        self.objectives = {objective.name: objective for objective in objectives}
        self.columns = {name: i for i, name in enumerate([ERROR, *self.objectives])}
        self._exact: dict[str, Values] = {each.name: each.exact_values for each in objectives
                                          if each.exact_values is not None}
        self._std: dict[str, Values] = {each.name: each.std_values for each in objectives
                                        if each.std_values is not None}
        if costs.available:
            self._exact |= {name: costs.counted(name) for name in COUNTED}
        self._costs = costs
        self.text = text
        self.limits = parse_limits(text, self._name, next(iter(self.objectives), "flops"))
        for limit in self.limits:
            if limit.probability is not None and limit.name not in self._std:
                raise UserError(f"constraint {limit}: only a learned latency has a probability; "
                                f"leave out :{limit.probability:g}")
        self.exact = [limit for limit in self.limits if limit.name in self._exact]
        self.predicted = [limit for limit in self.limits if limit.name not in self._exact]

    def __str__(self) -> str:
        return ",".join(map(str, self.limits))

    def _name(self, name: str, place: str) -> str:
        known, latencies = {*self._exact, *self.columns}, self._costs.latency_names()
        if name not in known | latencies.keys():
            raise UserError(f"{place}: unknown objective {name!r}; a constraint of this search can "
                            f"name {', '.join(sorted(known | latencies.keys()))}")
        if name not in known:
            self._exact[name] = self._costs.latency(latencies[name])
            learned = self._costs.learned(latencies[name])
            if learned is not None:
                self._std[name] = learned.std
        return name

    def exact_value(self, limit: Limit, X: np.ndarray) -> np.ndarray:
        """Returns the (n,) values that an exact limit is compared with."""
        values = self._exact[limit.name](X)
        return values if limit.probability is None else \
            limit.cautious(values, self._std[limit.name](X))

    def check_strategy(self, strategy: Strategy) -> None:
        """Raises UserError where a limit needs a prediction and the strategy has no predictor."""
        if self.predicted and strategy.default_predictor is None:
            raise UserError(f"constraint {self.predicted[0]}: known by evaluation only, and the "
                            f"strategy {strategy.name} predicts nothing; choose another strategy")

    def idle(self, space: SearchSpace) -> list[str]:
        """Returns a line for each limit that every architecture is within, see `idle_limits`."""
        if not self.limits:
            return []
        X = np.vstack([space.encode_many(space.extremes()),
                       space.draw(ROUND, np.random.default_rng(0))])
        return idle_limits(self.limits, {limit.name: self._exact[limit.name](X)
                                         for limit in self.exact}, "architecture")

    def exact_violation(self, X: np.ndarray) -> np.ndarray:
        """Returns the (n,) violations of the exact limits, added up."""
        return np.sum([limit.violation(self.exact_value(limit, X)) for limit in self.exact],
                      axis=0) if self.exact else np.zeros(len(X))

    def violation(self, surrogate: Surrogate | None) -> Callable[[np.ndarray], np.ndarray] | None:
        """Returns what `Task.violation` is; None without limits."""
        if not self.limits:
            return None
        predicted = self.predicted if surrogate is not None else []

        def total(X: np.ndarray) -> np.ndarray:
            violations = self.exact_violation(X)
            if predicted and surrogate is not None:
                F = surrogate.predict(X)
                for limit in predicted:
                    violations = violations + limit.violation(self._value(limit.name, F))
            return violations
        return total

    def _value(self, name: str, F: np.ndarray) -> np.ndarray:
        column = F[:, self.columns[name]]
        return 100 - column if name == ERROR else column * self.objectives[name].sign


def initial_sample(space: SearchSpace, n: int, rng: np.random.Generator, *, uniform: bool = False,
                   constraints: Constraints | None = None) -> np.ndarray:
    """Returns the initial sample, (n, n_var) distinct canonical vectors.

    The smallest and the largest architecture, then random ones (NSGANetV2, Section 3.1); with
    constraints only what is within the exact ones.

    Args:
        space: the search space.
        n: how many.
        rng: the generator.
        uniform: leave the two extremes out: random search.
        constraints: of the search.

    Raises:
        UserError: the space holds fewer, or fewer within the constraints; the message then names
            the nearest value that can be satisfied.
    """
    if constraints is not None and constraints.exact:
        return _sample_within(space, n, rng, constraints)
    if not uniform:
        return space.encode_many(space.initialize(n, rng=rng))
    nothing = np.zeros((0, space.n_var), dtype=int)
    X = Task(space, nothing, np.zeros((0, 2)), nothing, None).top_up(nothing, n, rng)[:n]
    if len(X) < n:
        raise UserError(f"no {n} different architectures found in the space {space.name}; choose "
                        "a smaller initial sample")
    return X


def _sample_within(space: SearchSpace, n: int, rng: np.random.Generator,
                   constraints: Constraints) -> np.ndarray:
    """Draws; where too little of the space is within the limits, mutates what comes nearest."""
    X = space.encode_many(space.extremes())
    inside = X[constraints.exact_violation(X) <= 0]
    pool = X
    for _ in range(MAX_ROUNDS):
        drawn = space.draw(ROUND, rng)
        if len(inside) or len(pool) > ELITE:
            near = np.vstack([inside, pool])[:ELITE]
            drawn = np.vstack([drawn, offspring(space, near, ROUND, rng)])
        beyond = constraints.exact_violation(drawn)
        inside = unique_rows(np.vstack([inside, drawn[beyond <= 0]]))
        if len(inside) >= n:
            return inside[:n]
        pool = np.vstack([pool, drawn[beyond > 0]])
        pool = pool[np.argsort(constraints.exact_violation(pool), kind="stable")[:10 * ELITE]]
    raise UserError(_unsatisfiable(space, n, inside, pool, constraints))


def nearest(task: Task, constraints: Constraints, k: int, rng: np.random.Generator) -> np.ndarray:
    """Returns up to `k` vectors within the exact limits that are predicted least beyond the others.

    For a task of which nothing is predicted to be within them all: the predictions may be wrong,
    and what comes nearest teaches most. None where no limit is predicted.
    """
    if not constraints.predicted or task.violation is None:
        return task.X[:0]
    X = task.X
    for _ in range(APPROACH):
        near = X[np.argsort(task.violation(X), kind="stable")[:ELITE]]
        X = unique_rows(np.vstack([near, task.space.draw(ROUND, rng),
                                   offspring(task.space, near, ROUND, rng)]))
    X = replace(task, violation=constraints.exact_violation).fresh(X)
    return X[np.argsort(task.violation(X), kind="stable")[:k]] if len(X) else X


def _unsatisfiable(space: SearchSpace, n: int, inside: np.ndarray, pool: np.ndarray,
                   constraints: Constraints) -> str:
    text = ",".join(map(str, constraints.exact))
    if len(inside):
        return (f"constraint {text}: only {len(inside)} architectures within it were found in the "
                f"space {space.name}, but the initial sample has {n} (--n_doe); relax the "
                "constraint, or choose a smaller sample")
    nearest = []
    for limit in constraints.exact:
        values = constraints.exact_value(limit, pool)
        value = values.min() if limit.comparison.startswith("<") else values.max()
        nearest.append(f"{limit.name}{limit.comparison}{value:g}")
    return (f"constraint {text}: no architecture of the space {space.name} is within it; the "
            f"nearest that can be satisfied, each by itself, is {', '.join(nearest)}")
