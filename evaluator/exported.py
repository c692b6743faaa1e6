"""Whether an exported network answers as the original, how well, and how fast."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from evaluator.timing import measure
from networks.export import Runner

N_RANDOM = 64
REPEATS, REL_ERR = 40, 0.05


class Gap(NamedTuple):
    """How far the outputs for the same images differ.

    Attributes:
        difference: largest absolute difference of a logit; infinity where one is not finite.
        logit: largest absolute logit of the first.
    """

    difference: float
    logit: float


@dataclass(frozen=True)
class Comparison:
    """Two ways to run one network.

    Attributes:
        differences: largest difference of a logit, by kind of images: `random`, `real`.
        top1: of both in percent, by their names; empty where no data set was given.
        n_images: that `top1` was measured on.
        latency: in ms for one image, by name and number of threads.
        sizes: of the files in bytes, by name.
        logits: largest absolute logit of the original, by kind of images.
    """

    differences: Mapping[str, float]
    top1: Mapping[str, float] = field(default_factory=dict)
    n_images: int = 0
    latency: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    logits: Mapping[str, float] = field(default_factory=dict)

    @property
    def largest(self) -> float:
        """The largest difference of all."""
        return max(self.differences.values())


def random_images(resolution: int, n: int = N_RANDOM, seed: int = 0) -> np.ndarray:
    """Returns (n, 3, r, r) float32 images of standard normal pixels."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 3, resolution, resolution), dtype=np.float32)


def real_images(batches: Iterable[Any], n: int = N_RANDOM) -> np.ndarray:
    """Returns the first n images of (images, labels) batches as float32 (n, 3, r, r)."""
    return np.concatenate(calibration_arrays(batches, n))


def gap(first: Runner, second: Runner, images: np.ndarray) -> Gap:
    """Returns how far two runners differ, and how large the logits of the first are.

    Args:
        first, second: what is compared.
        images: (n, 3, r, r) float32.
    """
    logits = np.asarray(first(images))
    difference = float(np.abs(logits - np.asarray(second(images))).max())
    return Gap(difference if np.isfinite(difference) else float("inf"),
               float(np.abs(logits).max()))


def allowed_difference(tolerance: float, logit: float) -> float:
    """Returns how far logits may differ: float32 rounds large ones by more.

    Args:
        tolerance: for logits of up to 1.
        logit: the largest absolute one; a network that gives infinities gains nothing by them.
    """
    return tolerance * max(1.0, logit if np.isfinite(logit) else 1.0)


def top1(runners: Mapping[str, Runner], batches: Iterable[Any]) -> tuple[dict[str, float], int]:
    """Returns the top-1 accuracy in percent of each runner, and the number of images.

    Args:
        runners: by name; all see the same images.
        batches: (images, labels).
    """
    right, n = dict.fromkeys(runners, 0), 0
    for images, labels in batches:
        pixels, n = np.ascontiguousarray(images.numpy()), n + len(labels)
        for name, run in runners.items():
            right[name] += int((np.argmax(run(pixels), axis=1) == labels.numpy()).sum())
    return {name: 100 * hits / n for name, hits in right.items()}, n


def latencies(load: Mapping[str, Callable[[int], Runner]], resolution: int,
              threads: Sequence[int]) -> dict[str, dict[int, float]]:
    """Returns the mean latency in ms for one image; the runners take turns.

    Args:
        load: from the number of threads to a runner, by name.
        resolution: of the image in pixels.
        threads: the numbers of threads.
    """
    image = random_images(resolution, 1)
    found: dict[str, dict[int, float]] = {name: {} for name in load}
    for count in threads:
        runners = [make(count) for make in load.values()]
        measured = measure([partial(run, image) for run in runners], rel_err=REL_ERR,
                           max_repeats=REPEATS)
        for name, latency in zip(load, measured, strict=True):
            found[name][count] = latency.mean
    return found


def calibration_arrays(batches: Iterable[Any], n: int) -> list[np.ndarray]:
    """Returns the first n images of (images, labels) batches, or all, for a quantisation."""
    found: list[np.ndarray] = []
    for images, _ in batches:
        found.append(np.ascontiguousarray(images.numpy()[:n - sum(map(len, found))]))
        if sum(map(len, found)) >= n:
            break
    return found
