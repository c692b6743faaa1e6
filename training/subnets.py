"""What a supernet is trained on in each phase: which subnets, and what they learn from.

Progressive shrinking (Once for All, Cai et al., ICLR 2020, Section 3.3): first the full network,
then one more dimension becomes elastic in each phase. What exists to become elastic is read from
the genes of the search space, so that every family of supernets is trained alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from networks.supernets import activate
from search_space import Arch, SearchSpace
from training.defaults import RULES
from training.loops import soft_cross_entropy
from utils.registry import load_class

# The last word of a gene's group, in the order in which the dimensions become elastic.
KINDS = ("kernel", "depth", "expansion", "width")
RESOLUTION = "resolution"

Teaching = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Phase:
    """One part of a training.

    Attributes:
        name: the dimension that became elastic last; `full` is the first phase, with none.
        elastic: all dimensions that are elastic, of `KINDS`.
    """

    name: str
    elastic: tuple[str, ...] = ()


def phases_of(space: SearchSpace) -> list[Phase]:
    """Returns the phases of a space: `full`, then one for each dimension that it has."""
    there = {_kind(gene.group) for gene in space.genes}
    kinds = [kind for kind in KINDS if kind in there]
    return [Phase("full"), *(Phase(kind, tuple(kinds[:i + 1])) for i, kind in enumerate(kinds))]


class Subnets:
    """The subnets of a phase: what is not elastic yet stays at its largest.

    Args:
        space: the search space; its resolutions are those of the training.
        phase: what is elastic.
        options: how many of the largest values the phase's own dimension has; None: all.
    """

    def __init__(self, space: SearchSpace, phase: Phase, options: int | None = None) -> None:
        self.space = space
        kinds = [_kind(gene.group) for gene in space.genes]
        free = np.array([kind in (*phase.elastic, RESOLUTION) for kind in kinds])
        self.upper = np.asarray(space.upper)
        self.lower = np.where(free, space.lower, self.upper)
        if options is not None:
            own = np.array([kind == phase.name for kind in kinds])
            self.lower = np.where(own, np.maximum(self.lower, self.upper - options + 1), self.lower)

    @property
    def largest(self) -> Arch:
        """The full network, at the largest resolution."""
        return self.space.decode(self.upper)

    @property
    def smallest(self) -> Arch:
        """The smallest subnet, at the smallest resolution."""
        return self.space.decode(self.lower)

    def draw(self, rng: np.random.Generator) -> Arch:
        """Returns a random subnet, every gene uniform."""
        return self.space.decode(rng.integers(self.lower, self.upper, endpoint=True))


class Rule(ABC):
    """Chooses the subnets of a step and what they learn from; an objective of `training.loops`.

    Each step draws one resolution, to which the images are reduced on the device (`of_a_step`). All
    draws of a step come from `rng`, which the training sets for each step.

    Args:
        phase: what is elastic.
        space: the search space.
        resolutions: to draw from; images come in the largest.
        progress: share of the phase that is done, 0..1.
        n_random: random subnets in a step; None is the rule's own number.
        kd_ratio: weight of a teacher's output against the labels:
            (labels + kd_ratio * teacher) / (1 + kd_ratio).
        smoothing: label smoothing.
        teacher: images of a step -> logits, next to the labels: those of an external network, which
            the training sets for each step, or, where the rule needs one, the full network after
            the phase `full`.

    Attributes:
        rng: the generator of the present step.
        n_losses: subnets in the latest step.
    """

    needs_teacher: ClassVar[bool] = False

    def __init__(self, phase: Phase, space: SearchSpace, resolutions: Sequence[int], *,
                 progress: float = 0.0, n_random: int | None = None, kd_ratio: float = 1.0,
                 smoothing: float = 0.0, teacher: Teaching | None = None) -> None:
        self.phase, self.resolutions, self.teacher = phase, list(resolutions), teacher
        self.n_random = self.default_n_random(phase) if n_random is None else n_random
        self.kd_ratio, self.smoothing = kd_ratio, smoothing
        self.subnets = Subnets(space, phase, self.options(progress))
        self.rng, self.n_losses = np.random.default_rng(0), 1

    @staticmethod
    @abstractmethod
    def default_n_random(phase: Phase) -> int:
        """Returns the number of random subnets in a step."""

    def options(self, progress: float) -> int | None:
        """Returns how many values of its newest dimension a phase may use; None: all."""
        return None

    @abstractmethod
    def losses(self, net: Any, images: Tensor, labels: Tensor) -> list[Callable[[], Tensor]]:
        """Returns the losses of one step in a phase with something elastic."""

    def __call__(self, net: Any, images: Tensor, labels: Tensor) -> list[Callable[[], Tensor]]:
        """Returns the losses of one step, one for each subnet."""
        images = self.of_a_step(images)
        found = self.losses(net, images, labels) if self.phase.elastic else [
            lambda: self.loss(self.logits(net, self.subnets.largest, images), labels,
                              self.taught(images))]
        self.n_losses = len(found)
        return found

    @staticmethod
    def logits(net: Any, arch: Arch, images: Tensor) -> Tensor:
        """Returns the logits of a subnet."""
        activate(net, arch)
        return net(images)

    def taught(self, images: Tensor) -> Tensor | None:
        """Returns the teacher's logits, None without a teacher."""
        if self.teacher is None:
            return None
        with torch.no_grad():
            return self.teacher(images)

    def loss(self, logits: Tensor, labels: Tensor, soft: Tensor | None) -> Tensor:
        """Returns the loss against the labels and, where there are some, a teacher's logits."""
        hard = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        if soft is None:
            return hard
        return (hard + self.kd_ratio * soft_cross_entropy(logits, soft)) / (1 + self.kd_ratio)

    def of_a_step(self, images: Tensor) -> Tensor:
        """Returns the images of a step, reduced to the resolution that is drawn for it."""
        return reduced(images, int(self.rng.choice(self.resolutions)))


def reduced(images: Tensor, size: int) -> Tensor:
    """Returns images (b, 3, r, r) of another resolution, on their device."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)


class Sandwich(Rule):
    """The largest, the smallest and some random subnets in each step; the largest teaches.

    It learns from the labels, and from a teacher where one is given; its output teaches the others
    in the same step (sandwich rule and in-place distillation: Yu et al., BigNAS, ECCV 2020).
    """

    @staticmethod
    def default_n_random(phase: Phase) -> int:
        """Returns 2, as BigNAS."""
        return 2

    def losses(self, net: Any, images: Tensor, labels: Tensor) -> list[Callable[[], Tensor]]:
        """See `Rule.losses`."""
        soft: list[Tensor] = []

        def largest() -> Tensor:
            logits = self.logits(net, self.subnets.largest, images)
            soft.append(logits.detach())
            return self.loss(logits, labels, self.taught(images))

        def student(arch: Arch) -> Tensor:
            return self.loss(self.logits(net, arch, images), labels, soft[0])

        students = [self.subnets.smallest,
                    *(self.subnets.draw(self.rng) for _ in range(self.n_random))]
        return [largest, *(partial(student, arch) for arch in students)]


class OwnSizes(Sandwich):
    """`Sandwich`, but each subnet of a step gets the images in its own resolution.

    The largest always sees the largest images, so that it teaches as well as it can; the smallest
    sees the smallest, and the random ones those of the resolution that is drawn with them.
    """

    def of_a_step(self, images: Tensor) -> Tensor:
        """Returns the images as they come, in the largest resolution."""
        return images

    @staticmethod
    def logits(net: Any, arch: Arch, images: Tensor) -> Tensor:
        """Returns the logits of a subnet."""
        return Sandwich.logits(net, arch, reduced(images, arch["r"]))


class ProgressiveShrinking(Rule):
    """Random subnets alone, which learn from the labels and from the finished full network.

    The knowledge distillation and the numbers of subnets are those of Once for All: 1 in the phase
    of the kernels, 2 in that of the depths, 4 later. Phases after that of the kernels have two
    stages: the first 25 of 145 parts use the two largest values of the new dimension alone.
    """

    needs_teacher = True
    FIRST_STAGE = 25 / 145

    @staticmethod
    def default_n_random(phase: Phase) -> int:
        """Returns the `dynamic_batch_size` of Once for All."""
        return {"kernel": 1, "depth": 2}.get(phase.name, 4)

    def options(self, progress: float) -> int | None:
        """Returns 2 in the first stage."""
        return 2 if self.phase.name != "kernel" and progress < self.FIRST_STAGE else None

    def losses(self, net: Any, images: Tensor, labels: Tensor) -> list[Callable[[], Tensor]]:
        """See `Rule.losses`."""
        soft = self.taught(images)

        def student(arch: Arch) -> Tensor:
            return self.loss(self.logits(net, arch, images), labels, soft)

        archs = [self.subnets.draw(self.rng) for _ in range(max(1, self.n_random))]
        return [partial(student, arch) for arch in archs]


def rule_class(name: str) -> type[Rule]:
    """Returns the class of a rule, a row of `training.defaults.RULES` or `module:Class`.

    Raises:
        UserError: no such rule.
    """
    return load_class(RULES, name, "rule of training", Rule)


def _kind(group: str) -> str:
    return group.split()[-1]
