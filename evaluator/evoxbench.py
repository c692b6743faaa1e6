"""The answers of a problem of EvoXBench, see `search_space.evoxbench`."""

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from evaluator.base import Evaluator, NetStats
from search_space import Arch, get_search_space
from search_space.evoxbench import EvoXBenchSpace
from utils.errors import UserError


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the two global generators that the package draws from; gives them back as they were."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


class EvoXBenchEvaluator(Evaluator):
    """Returns the figures of a problem: `top1` in percent, and its other objectives by name.

    As in the benchmark, an accuracy is a noisy validation accuracy. Here it depends on the seed and
    the architecture alone, so that a second evaluation gives the same.

    Args:
        search_space: `evoxbench:PROBLEM`.
        seed: of the noise.
        ignored: options of other evaluators.

    Attributes:
        names: of the objectives besides the error.

    Raises:
        UserError: another search space, or the package or its data are missing.
    """

    def __init__(self, search_space: str, seed: int = 0, **ignored: Any) -> None:
        space = get_search_space(search_space)
        if not isinstance(space, EvoXBenchSpace):
            raise UserError("--evaluator evoxbench needs --search_space evoxbench:PROBLEM, not "
                            f"{search_space}")
        self.space, self.problem, self.seed = space, space.problem, seed
        self.names = [name for name in self.problem.evaluator.objs.split("&") if name != "err"]

    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> NetStats:
        """See `Evaluator.evaluate`; `batch_scale` is without influence."""
        x = self.space.encode(arch)
        with seeded(zlib.crc32(x.tobytes(), self.seed)):
            (found,) = self.problem.evaluator.evaluate(self.problem.search_space.decode(x[None]))
        figures = {name: float(value) for name, value in found.items()}
        return {"top1": 100 * (1 - figures.pop("err")), **figures, "evaluator": "evoxbench"}

    def hypervolume(self, X: np.ndarray) -> float:
        """Returns the hypervolume of vectors (n, n_var), as the benchmark measures it.

        It takes test accuracies, and normalises by the problem's utopian and nadir points.
        """
        with seeded(self.seed):
            return float(self.problem.calc_perf_indicator(self.space.canonical(X), "hv"))
