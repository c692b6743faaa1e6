"""The training images of small data sets: augmented at their own size, enlarged on the device."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision import transforms as tv

from data_providers import DataProvider
from data_providers.transforms import CROP_RATIO, train_geometry
from networks.configs import SMALL_IMAGES
from training.world import World

# The small images are cropped at their own size; the others are cropped at the resolution.
NATIVE_SIZE, CROP_PADDING = 32, 4
# Grey, where AutoAugment moves an image away; as in the original.
AUTOAUGMENT_FILL = [128, 128, 128]


def make_batches(args: argparse.Namespace, provider: DataProvider, size: int,
                 world: World) -> "Enlarged":
    """Returns the training batches of this process, on its device, `size` pixels wide."""
    native = NATIVE_SIZE if args.dataset in SMALL_IMAGES else None
    # DEVIATION last-batch: the original trains on the last batch, too, where it is not full.
    batches = provider.train_loader(
        size, args.batch_size, drop_last=provider.n_train >= args.batch_size * world.size,
        rank=world.rank, world_size=world.size, device=world.device,
        transform=geometry(args, provider, native, size))
    cutout_length = args.cutout_length if args.cutout else 0
    black = [-mean / std for mean, std in zip(provider.info.mean, provider.info.std, strict=True)]
    return Enlarged(batches, size, cutout_length, args.seed, world.rank, black)


def geometry(args: argparse.Namespace, provider: DataProvider, native: int | None,
             size: int) -> Any:
    """Returns the training transform, PIL -> PIL: crop, flip, AutoAugment.

    Things are as large as in the evaluation: where that cuts the centre out and enlarges it, the
    random crops have the size of the centre; the original's, which does not, are padded.

    DEVIATION autoaugment: the original's own rotates one way only and shears bicubically.
    """
    if not native:
        steps = [train_geometry(provider.info, size)]
    elif provider.info.eval_resize == "crop":
        steps = [tv.RandomCrop(round(native * CROP_RATIO)), tv.RandomHorizontalFlip()]
    else:
        steps = [tv.RandomCrop(native, padding=CROP_PADDING), tv.RandomHorizontalFlip()]
    if args.autoaugment:
        steps.append(tv.AutoAugment(tv.AutoAugmentPolicy(args.autoaugment), fill=AUTOAUGMENT_FILL))
    return tv.Compose(steps)


class Enlarged:
    """Training batches after Cutout and bicubic up-sampling, both on the device.

    Args:
        batches: normalised images (b, 3, s, s) and labels, with `len` and `set_epoch`.
        size: r, in pixels.
        cutout_length: side of the blank square; 0 for none.
        seed, rank: with the epoch they decide where the squares lie.
        black: what a black pixel is after normalisation, one value for each channel.
    """

    def __init__(self, batches: Any, size: int, cutout_length: int, seed: int, rank: int,
                 black: Sequence[float]) -> None:
        self.batches, self.size, self.cutout_length = batches, size, cutout_length
        self.black = black
        self.seed, self.rank, self.epoch = seed, rank, 0

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next pass."""
        self.epoch = epoch
        self.batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        key = hash((self.seed, self.epoch, self.rank)) % 2**63
        generator = torch.Generator().manual_seed(key)
        for images, labels in self.batches:
            if self.cutout_length:
                images = cutout(images, self.cutout_length, generator, self.black)
            if images.shape[-1] != self.size:
                images = interpolate(images, size=self.size, mode="bicubic", align_corners=False)
            yield images, labels


def cutout(images: Tensor, length: int, generator: Any,
           fill: Sequence[float]) -> Tensor:
    """Sets a square of each normalised image (b, 3, h, w) to `fill` (3,); returns a new tensor.

    The original blanks before it normalises: its square is black. The centre is uniform over the
    image, so that the square may reach over the edge. Source: Cutout (DeVries and Taylor, 2017).
    """
    b, _, height, width = images.shape
    masks = []
    for size in (height, width):
        centre = torch.randint(size, (b, 1), generator=generator)
        offset = torch.arange(size) - (centre - length // 2)
        masks.append((offset >= 0) & (offset < length))
    hole = masks[0][:, None, :, None] & masks[1][:, None, None, :]
    colour = torch.tensor(fill, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return torch.where(hole.to(images.device), colour, images)
