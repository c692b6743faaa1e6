"""Accuracy on images that a search did not see, and which networks it cannot tell apart.

The best of many networks on some images owes a part of its accuracy to luck with these images.
Others, which chose nothing, give an honest figure; and since all networks answer for the same
images, their difference is known better than each accuracy alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from cli.progress import progress_bar
from utils.errors import UserError
from utils.intervals import LEVEL, Difference, Interval, compare_paired, holm, wilson

if TYPE_CHECKING:
    from torch import nn

    from data_providers import DataProvider
    from evaluator.accuracy import SupernetEvaluator
    from search_space import Arch


@dataclass(frozen=True)
class Scores:
    """What networks answered for the same images.

    Attributes:
        names: of the networks, in the order of the front.
        hits: (networks, images) bool, which answers are right.
        images: what the images are.
        labels: (images,) of the images; empty where they are not known.
        classes: the names of the classes by label.
    """

    names: Sequence[str]
    hits: np.ndarray
    images: str = "test images"
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    classes: Sequence[str] = ()

    @property
    def n_images(self) -> int:
        """Number of images."""
        return self.hits.shape[1]

    @property
    def top1(self) -> list[float]:
        """Top-1 accuracy of each network in percent."""
        return (100 * self.hits.mean(axis=1)).tolist()

    def intervals(self) -> list[Interval]:
        """Returns the 95 % interval of each accuracy (Wilson)."""
        return [wilson(int(hits.sum()), self.n_images) for hits in self.hits]

    def neighbours(self) -> list[Difference]:
        """Returns the difference of each network but the first to the one before it.

        The p-values are corrected for their number (Holm).
        """
        found = [compare_paired(*pair) for pair in pairwise(self.hits)]
        corrected = holm([each.p_value for each in found])
        return [each._replace(p_value=p) for each, p in zip(found, corrected, strict=True)]

    def by_class(self) -> list[list[float | None]]:
        """Returns each network's top-1 accuracy in percent of each class; None without images."""
        members = [self.labels == label for label in range(len(self.classes))]
        return [[100 * float(hits[of].mean()) if of.any() else None for of in members]
                for hits in self.hits]

    def report(self) -> dict[str, Any]:
        """Returns everything as plain values: what `rescore.json` holds."""
        networks = [{"name": name, "top1": top1, "interval": list(interval), "by_class": by_class}
                    for name, top1, interval, by_class in zip(
                        self.names, self.top1, self.intervals(), self.by_class(), strict=True)]
        pairs = [{"first": first, "second": second, "points": each.points,
                  "interval": list(each.interval), "p_value": each.p_value,
                  "distinct": is_distinct(each)}
                 for (first, second), each in zip(pairwise(self.names), self.neighbours(),
                                                  strict=True)]
        return {"images": self.images, "n_images": self.n_images, "level": LEVEL,
                "tests": "Wilson intervals; exact McNemar test of neighbours, Holm's correction; "
                         "Agresti and Min's intervals of paired differences",
                "classes": list(self.classes), "networks": networks, "neighbours": pairs}

    def lines(self) -> list[str]:
        """Returns a sentence for each network and each pair of neighbours."""
        networks = [f"{name}: top1 {top1:.2f} on {self.n_images} {self.images}, 95 % interval "
                    f"{low:.2f} to {high:.2f}"
                    for name, top1, (low, high) in zip(self.names, self.top1, self.intervals(),
                                                       strict=True)]
        return networks + self.pair_lines()

    def pair_lines(self) -> list[str]:
        """Returns a sentence for each network but the first: how it compares to the one before."""
        return [f"{second} against {first}: {each.points:+.2f} points, 95 % interval "
                f"{each.interval.low:+.2f} to {each.interval.high:+.2f}, p {each.p_value:.3f}: "
                f"{'told apart' if is_distinct(each) else 'cannot be told apart'}"
                for (first, second), each in zip(pairwise(self.names), self.neighbours(),
                                                 strict=True)]


def is_distinct(difference: Difference) -> bool:
    """Whether the images tell two networks apart at the 95 % level."""
    return difference.p_value < 1 - LEVEL


def check_unseen(provider: "DataProvider", test: bool) -> None:
    """Raises UserError where the test images are those that the search was scored on.

    Args:
        provider: of the search's images.
        test: whether the search scored on the test images.
    """
    if test or not provider.holds_out_validation:
        raise UserError("--rescore: the search was scored on the test images, so no other images "
                        "are left; search with --vld_size to keep them unseen")


def rescore(names: Sequence[str], archs: Sequence["Arch"], nets: Sequence["nn.Module"],
            evaluator: "SupernetEvaluator") -> Scores:
    """Returns what networks answer for the test images, which the search did not see.

    Args:
        names, archs: of the networks.
        nets: with calibrated statistics; where the search fine-tuned its networks, others are
            fine-tuned again as it did.
        evaluator: what the search scored with.

    Raises:
        UserError: the data set has no test images.
    """
    from evaluator.accuracy import arch_seed
    from networks import cut_subnet
    from utils.devices import device_of

    rows = []
    for net, arch in progress_bar([*zip(nets, archs, strict=True)], "network scored"):
        if evaluator.n_epochs:
            net = cut_subnet(evaluator.supernet, arch)
            evaluator.score(net, arch["r"], arch_seed(arch, evaluator.options.seed))
        found, labels = answers(net, evaluator.provider.eval_batches("test", arch["r"],
                                                                     device=device_of(net)))
        rows.append(found)
    return Scores(names, np.array(rows), labels=labels,
                  classes=evaluator.provider.facts()["class_names"])


def answers(net: "nn.Module", batches: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (n,) bool, which images of the batches a network classifies rightly, and labels."""
    import torch

    from utils.devices import device_of, to_device

    device, pairs = device_of(net), []
    net.eval().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        for images, labels in batches:
            logits = net(to_device(images, device))
            pairs.append((logits.argmax(dim=1).cpu(), labels.cpu()))
    predicted, labels = map(torch.cat, zip(*pairs, strict=True))
    return (predicted == labels).numpy(), labels.numpy()
