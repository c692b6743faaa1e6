"""A supernet's training: its rules by name, and defaults that follow from the pictures."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from data_providers.pictures import DAMAGED

# name -> "module:Class" of a `training.subnets.Rule`
RULES = {
    "sandwich": "training.subnets:Sandwich",
    "own_sizes": "training.subnets:OwnSizes",
    "ofa": "training.subnets:ProgressiveShrinking",
}
# Pictures whose shorter side is smaller are trained near their own size.
SMALL, LEAST = 160, 32
SAMPLE = 16
# Of 160 epochs, those that suited the 1,197 handwritten digits; a large set of small pictures has
# fewer, so that the training passes about this many images.
EPOCHS, IMAGES_OF_SMALL = 160, 600_000
FIRST_SHARE = LAST_SHARE = 0.375
# With pretrained weights: about this many images, within these epochs; small pictures are enlarged.
IMAGES_OF_PRETRAINED, EPOCHS_OF_PRETRAINED = 10_000, (6, 40)
# Such networks halve their images five times: multiples of 32 lose nothing at the edges.
STRIDE, LARGEST_BASE, LARGEST_TOP = 32, 128, 160


def picture_size(provider: Any) -> int:
    """Returns the shorter side of the training pictures in pixels, the median of a few."""
    images = provider.images("train")
    sides = []
    for index in range(0, len(images), max(1, len(images) // SAMPLE)):
        try:
            sides.append(min(images.read(index).size))
        except DAMAGED:
            continue
    return int(median(sides)) if sides else SMALL


def default_resolutions(size: int, table: Sequence[int], pretrained: bool = False) -> list[int]:
    """Returns the resolutions for pictures of `size` px: five from their own size to 1.5 times.

    Large ones take those of the data set's row. Networks with pretrained weights have learned from
    larger pictures: they get the multiples of 32 from 1.5 to 3 times the size.
    """
    if size >= SMALL:
        return list(table)
    if pretrained:
        base = min(-(-3 * max(LEAST, size) // (2 * STRIDE)) * STRIDE, LARGEST_BASE)
        top = min(3 * max(LEAST, size), LARGEST_TOP)
        return list(range(base, top + 1, STRIDE))
    base = max(LEAST, size // 4 * 4)
    step = base // 8 // 4 * 4 or 4
    return [base + i * step for i in range(5)]


def default_epochs(n_phases: int, n_images: int, size: int, pretrained: bool = False) -> list[int]:
    """Returns the epochs of each phase, long ones at both ends, at least one each.

    Pretrained weights are adapted in the last phase alone, where everything is elastic.
    """
    if pretrained:
        least, most = EPOCHS_OF_PRETRAINED
        epochs = min(most, max(least, round(IMAGES_OF_PRETRAINED / max(n_images, 1))))
        return [*[0] * (n_phases - 1), epochs]
    total = EPOCHS if size >= SMALL else min(EPOCHS, IMAGES_OF_SMALL / max(n_images, 1))
    between = (1 - FIRST_SHARE - LAST_SHARE) / max(n_phases - 2, 1)
    shares = [FIRST_SHARE, *[between] * (n_phases - 2), LAST_SHARE]
    return [max(1, round(total * share)) for share in shares]
