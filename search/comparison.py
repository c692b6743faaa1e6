"""Searches compared: hypervolume by evaluations, over seeds, and differences on equal seeds."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from utils.pareto import ideal_point, normalized_hypervolume, reference_point

Curves = Mapping[str, Mapping[int, Sequence[float]]]  # strategy -> seed -> hypervolumes
N_BUDGETS = 6


class Box(NamedTuple):
    """What normalises a hypervolume: the reference point and the ideal point, (m,) each."""

    reference: np.ndarray
    ideal: np.ndarray

    @classmethod
    def around(cls, runs: Sequence[np.ndarray], n_initial: Sequence[int]) -> "Box":
        """Returns the box that all runs share.

        Args:
            runs: (n, m) minimised objectives of each, in the order of evaluation.
            n_initial: size of the initial sample of each: the reference point is that of these.
        """
        first = [F[:max(n, 1)] for F, n in zip(runs, n_initial, strict=True)]
        return cls(reference_point(np.vstack(first)), ideal_point(np.vstack(runs)))

    def curve(self, F: np.ndarray, counts: Sequence[int]) -> list[float]:
        """Returns the normalised hypervolume of (n, m) objectives after numbers of evaluations."""
        return [normalized_hypervolume(F[:n], *self) for n in counts]


def spread(first: int, total: int, most: int = 400) -> list[int]:
    """Returns up to `most` numbers of evaluations from `first` to `total`."""
    return np.unique(np.linspace(min(first, total), total, min(total, most)).astype(int)).tolist()


def mean_and_error(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard error over the seeds, (budgets,) each; no error from one seed."""
    n = len(curves)
    return curves.mean(axis=0), curves.std(axis=0, ddof=min(1, n - 1)) / np.sqrt(n)


def paired(ours: Mapping[int, Sequence[float]],
           others: Mapping[int, Sequence[float]]) -> np.ndarray:
    """Returns (seeds, budgets) differences of two strategies on the seeds that both have."""
    return np.array([np.subtract(ours[seed], others[seed])
                     for seed in sorted(ours.keys() & others.keys())])


def evaluations_to(target: float, counts: Sequence[int], curve: np.ndarray) -> float | None:
    """Returns after how many evaluations a (counts,) mean curve reaches the hypervolume.

    Linear between two counts, which overstates the number on a curve that flattens; rounded up.
    None where the curve never reaches it.
    """
    reached = np.flatnonzero(curve >= target)
    if not len(reached):
        return None
    i = int(reached[0])
    if i == 0:
        return float(counts[0])
    share = (target - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float(np.ceil(counts[i - 1] + share * (counts[i] - counts[i - 1])))


def markdown(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def mean_rows(curves: Mapping[str, np.ndarray]) -> list[tuple[object, ...]]:
    """Returns a row of a table for each strategy: name, seeds, and mean ± error by budget."""
    return [(name, len(values), *("" if np.isnan(m) else f"{m:.4f} ± {e:.4f}" for m, e in
                                  zip(*mean_and_error(values), strict=True)))
            for name, values in curves.items()]


def difference_rows(curves: Curves, at: Sequence[int]) -> list[tuple[object, ...]]:
    """Returns a row for each two strategies: on equal seeds, the differences at some budgets."""
    rows: list[tuple[object, ...]] = []
    for one, other in combinations(curves, 2):
        if len(differences := paired(curves[one], curves[other])):
            mean, error = mean_and_error(differences[:, at])
            rows.append((f"{one} - {other}", len(differences), *(
                f"{m:+.4f} ({f'{m / e:+.1f}' if e else '-'})"
                for m, e in zip(mean, error, strict=True))))
    return rows


def tables(counts: Sequence[int], first: int, curves: Curves, arrays: Mapping[str, np.ndarray],
           level: float | None) -> str:
    """Returns three tables in Markdown: means, differences, evaluations until `level`.

    The curves are given by seed, and as (seeds, counts) arrays; columns begin at `first`.
    """
    at = np.searchsorted(counts, spread(first, counts[-1], N_BUDGETS)).tolist()
    columns = ("seeds", *(counts[i] for i in at))
    means = {strategy: values.mean(axis=0) for strategy, values in arrays.items()}
    level = min(mean[-1] for mean in means.values()) if level is None else level
    needed = {name: evaluations_to(level, counts, mean) for name, mean in means.items()}
    return "\n\n".join((
        "Hypervolume by number of evaluations, mean ± standard error over the seeds",
        markdown(("strategy", *columns), mean_rows({name: v[:, at] for name, v in arrays.items()})),
        "Differences on equal seeds, in brackets in standard errors of their mean",
        markdown(("strategies", *columns), difference_rows(curves, at)),
        f"Evaluations until the mean hypervolume is {level:.4f}",
        markdown(("strategy", "evaluations"), [
            (name, f"more than {counts[-1]}" if n is None else int(n))
            for name, n in needed.items()]))) + "\n"
