"""The contract of evaluators: architecture -> stats, inside a worker."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

from search_space import Arch
from utils.errors import UserError

# What is known of one network, as in a `net.stats` file: JSON types, None if not measured.
NetStats = dict[str, Any]


class Evaluator(ABC):
    """Answers the jobs of a search; each worker builds one and asks it for one thing at a time.

    Policy: the same options and the same architecture give the same stats, in every order of jobs
    and on every worker. What cannot be scored is raised, never returned as a bad score. A class
    from outside the project is named as `module:Class`.
    """

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Constructs the evaluator from the options of a search, JSON types by name.

        An evaluator gets the options of all evaluators and uses its own.
        """
        return cls(**options)

    @abstractmethod
    def evaluate(self, arch: Arch, *, batch_scale: float = 1.0) -> NetStats:
        """Returns the stats of one architecture: `top1` in percent, and whatever else is known.

        Args:
            arch: an architecture of the search's space.
            batch_scale: multiplies batch sizes, after memory ran out: 0 < batch_scale <= 1.

        Raises:
            UserError: an invalid architecture.
        """

    def latency(self, arch: Arch) -> NetStats:
        """Returns the measured latency of one architecture in ms, as `{"gpu": ...}` or `cpu`.

        Raises:
            UserError: an invalid architecture, or the evaluator measures none.
        """
        raise UserError(f"the evaluator {type(self).__name__} measures no latency; choose a counted"
                        " objective, or one that it reports")
