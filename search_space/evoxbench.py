"""The problems of EvoXBench: integers within bounds, answered by its tables and predictors.

Source: Lu et al., "Neural Architecture Search as Multiobjective Optimization Benchmarks" (IEEE
TEVC 2023). Its package and its data are installed and set up as its README says; nothing else here
needs them.
"""

import contextlib
import re
import sys
from functools import cache
from typing import Any, ClassVar

import numpy as np

from search_space.base import Arch, Gene, SearchSpace
from search_space.nasbench101 import EDGES, NASBench101Space
from search_space.values import check_keys
from utils.errors import UserError, one_line
from utils.registry import EVOXBENCH

# How many problems each suite has.
SIZES = {"c10mop": 9, "in1kmop": 9, "citysegmop": 15}
_PROBLEM = re.compile(f"({'|'.join(SIZES)})([1-9]\\d?)", re.ASCII)
# Whose genes are edges and operations, without an order.
_CELLS = ("NASBench101SearchSpace", "NASBench201SearchSpace", "DARTSSearchSpace")


@cache
def problem_of(name: str) -> Any:
    """Returns the benchmark of `evoxbench:PROBLEM`, an object of the package.

    Raises:
        UserError: no such problem, or the package or its data are missing.
    """
    suite = _PROBLEM.fullmatch(name.removeprefix(EVOXBENCH))
    if suite is None or int(suite[2]) > SIZES[suite[1]]:
        raise UserError(f"{name}: no problem of EvoXBench; they are "
                        + ", ".join(f"{key}1 to {key}{size}" for key, size in SIZES.items()))
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints about its set-up
            from evoxbench import test_suites

            return getattr(test_suites, suite[1])(int(suite[2]))
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(f"{name}: the package evoxbench and its data are needed, set up as its "
                        f"README says: {one_line(error)}") from None


@cache
def evoxbench_space(name: str) -> "type[EvoXBenchSpace]":
    """Returns the class of the space `evoxbench:PROBLEM`."""
    return type("EvoXBenchSpace", (EvoXBenchSpace,), {"__doc__": EvoXBenchSpace.__doc__,
                                                      "name": name})


class EvoXBenchSpace(SearchSpace):
    """Architectures `{"x": [...]}`: a vector of integers of a problem of EvoXBench."""

    default_evaluator: ClassVar[str] = "evoxbench"

    def __init__(self) -> None:
        self.problem = problem_of(self.name)
        self.lower, self.upper = (np.array(bound) for bound in (self.problem.search_space.lb,
                                                                self.problem.search_space.ub))

    @property
    def genes(self) -> tuple[Gene, ...]:
        """What each integer stands for: a number of the problem's encoding."""
        ordered = self.problem.search_space.name not in _CELLS
        return tuple(Gene(gene.name, gene.values, gene.group, ordered) for gene in super().genes)

    def canonical(self, X: np.ndarray) -> np.ndarray:
        """Returns (n, n_var) vectors that the problem has one answer to.

        Blocks that are skipped come last in their stage: elsewhere, the package draws the block. A
        graph that is not in NAS-Bench-101 becomes one that is.
        """
        X = np.array(X, dtype=int)
        own = self.problem.search_space
        for stage in getattr(own, "stage_layer_indices", ()):
            skipped_last = np.argsort(X[:, stage] == 0, axis=1, kind="stable")
            X[:, stage] = np.take_along_axis(X[:, stage], skipped_last, axis=1)
        if own.name == _CELLS[0]:
            flip = np.r_[np.zeros(len(EDGES), dtype=int), self.upper[len(EDGES):]]
            X = np.abs(flip - NASBench101Space().canonical(np.abs(flip - X)))
        return X

    def encode(self, arch: Arch) -> np.ndarray:
        """See `SearchSpace.encode`."""
        check_keys(arch, ("x",))
        x = arch["x"]
        if not isinstance(x, list) or not all(isinstance(gene, int) for gene in x):
            raise UserError(f"'x' of the architecture must be a list of integers, not {x!r:.60}")
        return self.canonical(self.check(np.array(x, dtype=int))[None])[0]

    def decode(self, x: np.ndarray) -> Arch:
        """See `SearchSpace.decode`."""
        return {"x": self.canonical(self.check(x)[None])[0].tolist()}
