"""Transforms: from a PIL image to a PIL image of r x r pixels; normalisation by the batch."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torchvision import transforms as tv
from torchvision.transforms import InterpolationMode

from data_providers.table import DatasetInfo
from utils.registry import get_row

BICUBIC = InterpolationMode.BICUBIC
CROP_RATIO = 0.875

# The name is recorded with every result: a network is validated with what it was tuned with.
EVAL_RESIZES: dict[str, Callable[[int], list[Callable]]] = {
    "crop": lambda r: [tv.Resize(math.ceil(r / CROP_RATIO)), tv.CenterCrop(r)],
    "squash": lambda r: [tv.Resize((r, r), interpolation=BICUBIC)],
}


def _rand_augment(info: DatasetInfo, resolution: int) -> Callable:
    # timm's own hyper-parameters: shifts up to 45 % of the image, holes filled with the mean.
    hparams = {"translate_const": int(resolution * 0.45),
               "interpolation": Image.Resampling.BICUBIC,
               "img_mean": tuple(min(255, round(255 * m)) for m in info.mean or ())}
    return rand_augment_transform("rand-m9-mstd0.5", hparams)


CROP_STEP = "rrc"
TRAIN_STEPS: dict[str, Callable[[DatasetInfo, int], Callable]] = {
    CROP_STEP: lambda info, r: tv.RandomResizedCrop(r, (info.crop_scale, 1.0)),
    "flip": lambda info, r: tv.RandomHorizontalFlip(),
    "jitter": lambda info, r: tv.ColorJitter(brightness=32 / 255, saturation=0.5),
    "rand-m9-mstd0.5": _rand_augment,
    "affine": lambda info, r: tv.RandomAffine(45, translate=(0.4, 0.4), scale=(0.75, 1.5),
                                             interpolation=InterpolationMode.BILINEAR),
    "stretch": lambda info, r: tv.Resize((r, r), interpolation=BICUBIC),
    "shake": lambda info, r: tv.RandomAffine(10, translate=(0.08, 0.08), scale=(0.9, 1.1), shear=5,
                                            interpolation=InterpolationMode.BILINEAR),
}


def eval_geometry(info: DatasetInfo, resolution: int) -> tv.Compose:
    """Returns the evaluation transform PIL -> PIL of r x r pixels.

    `info.eval_resize` is `crop` (resize the short side to ceil(r / 0.875), bilinear, cut the
    centre) or `squash` (resize to r x r, bicubic).

    Raises:
        UserError: no such name.
    """
    return tv.Compose(get_row(EVAL_RESIZES, info.eval_resize, "evaluation transform")(resolution))


def train_geometry(info: DatasetInfo, resolution: int) -> tv.Compose:
    """Returns the search's training transform PIL -> PIL of r x r pixels."""
    return tv.Compose([TRAIN_STEPS[step](info, resolution) for step in info.train_aug])


class Normalise:
    """Turns batches of bytes into normalised floats, with the arithmetic of torchvision's.

    The bytes travel to the device, a quarter of the floats; the result is in memory as
    `channels_last`. Whole rows are normalised at once: three channels would be too short a loop.

    Args:
        mean: one per channel, of pixels in [0, 1].
        std: likewise.
        device: where to; None stays.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: Any = None) -> None:
        self.mean, self.std, self.device = mean, std, device
        self._rows: dict[int, list[torch.Tensor]] = {}  # by width: sent to the device once

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Returns float32 (n, 3, h, w) of uint8 (n, h, w, 3).

        On the CPU equal to ToTensor and Normalize to the last bit.
        """
        n, height, width, _ = images.shape
        rows = images.to(self.device, non_blocking=True).to(torch.float32)
        if width not in self._rows:
            self._rows[width] = [torch.tensor(value, device=rows.device).repeat(width)
                                 for value in (self.mean, self.std)]
        centre, scale = self._rows[width]
        rows = rows.view(n, height, width * 3).div_(255).sub_(centre).div_(scale)
        return rows.view(n, height, width, 3).permute(0, 3, 1, 2)


def seed_everything(seed: int) -> None:
    """Seeds the three global generators that the libraries' random transforms draw from."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Restores the three global generators after the block."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
