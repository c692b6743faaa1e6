"""Labelled images, in files or in memory, of which some may be damaged."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from data_providers.pictures import DAMAGED, picture_size, read_picture
from utils.errors import UserError, one_line, warn

_STATISTICS_IMAGES = 5_000
_FEW_DAMAGED = 1  # always allowed, also in a small data set


class Images:
    """A list of labelled images: what every data set becomes.

    Attributes:
        targets: int64 (n,).
        total: number of images of the whole split, of which this may be a part.
        in_memory: whether the images are decoded already.
    """

    in_memory = False

    def __init__(self, items: Any, targets: Any, total: int | None = None) -> None:
        self.items, self.targets = items, np.asarray(targets, dtype=np.int64)
        self.total = len(self.targets) if total is None else total

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, indices: Sequence[int]) -> Self:
        """Returns the images at `indices`, in that order."""
        items = [self.items[i] for i in indices]
        return type(self)(items, self.targets[np.asarray(indices, dtype=np.int64)], self.total)

    def name(self, index: int) -> str:
        """Returns what an error message calls the image."""
        return f"image {index}"

    def read(self, index: int) -> Image.Image:
        """Returns image `index` as RGB; raises one of `DAMAGED` where it cannot be decoded."""
        raise NotImplementedError

    def read_from(self, index: int, tries: int,
                  damaged: list[int]) -> tuple[Image.Image | None, int]:
        """Returns the first image from `index` on that can be decoded, and its index.

        Args:
            index: where to begin; after the last image comes the first.
            tries: how many images to try; None is returned where all of them are damaged.
            damaged: gets the indices of those that cannot be decoded.
        """
        for step in range(tries):
            candidate = (index + step) % len(self)
            try:
                return self.read(candidate), candidate
            except DAMAGED:
                damaged.append(candidate)
        return None, index

    def size(self, index: int) -> tuple[int, int]:
        """Returns (height, width) in pixels without decoding; (0, 0) for a damaged file."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the images and labels, equal only where these are; computed once."""
        digest = hashlib.blake2b(self.targets.tobytes(), digest_size=16)
        for part in self._parts():
            digest.update(part)
        return digest.hexdigest()

    def listing(self, root: str) -> str:
        """Returns a digest of labels and names below the folder `root`, wherever that lies.

        Of images in memory it is the fingerprint.
        """
        if self.in_memory:
            return self.fingerprint
        digest = hashlib.blake2b(self.targets.tobytes(), digest_size=16)
        for index in range(len(self)):
            name = self.name(index).removeprefix(root)
            digest.update(f"{name}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _parts(self) -> Iterable[bytes | memoryview]:
        raise NotImplementedError


class FileImages(Images):
    """Images in files; `items` are their paths.

    Known by path, size, both times of change and inode: a file that was written anew is another
    one even where its size and modification time were put back.
    """

    def name(self, index: int) -> str:
        """Returns the path."""
        return str(self.items[index])

    def read(self, index: int) -> Image.Image:
        """Decodes the file."""
        return read_picture(self.items[index])

    def size(self, index: int) -> tuple[int, int]:
        """Reads the file's header."""
        try:
            return picture_size(self.items[index])
        except DAMAGED:
            return 0, 0

    def _parts(self) -> Iterable[bytes | memoryview]:
        for path in self.items:
            try:
                status = os.stat(path)
                stamp: tuple[int, ...] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns,
                                          status.st_ino)
            except OSError:
                stamp = ()
            yield f"{os.path.abspath(path)}|{stamp}\n".encode("utf-8", "surrogateescape")


class ArrayImages(Images):
    """Images in memory; `items` is uint8 (n, h, w, 3)."""

    in_memory = True

    def subset(self, indices: Sequence[int]) -> Self:
        """Copies the rows at `indices`."""
        rows = np.asarray(indices, dtype=np.int64)
        return type(self)(self.items[rows], self.targets[rows], self.total)

    def read(self, index: int) -> Image.Image:
        """Wraps the row."""
        return Image.fromarray(np.ascontiguousarray(self.items[index]))

    def size(self, index: int) -> tuple[int, int]:
        """Returns the rows' size."""
        return self.items.shape[1:3]

    def _parts(self) -> Iterable[bytes | memoryview]:
        yield np.ascontiguousarray(self.items).data


def check_damaged(images: Images, damaged: Sequence[int], limit: float) -> None:
    """Raises UserError where more than the part `limit` of a split is damaged; one always may be.

    Args:
        images: of the split, or a part of it.
        damaged: indices of those that could not be decoded.
        limit: 0..1.
    """
    if len(damaged) > max(_FEW_DAMAGED, images.total * limit):
        raise UserError(f"{images.name(min(damaged))}: {len(damaged)} of {images.total} images are "
                        f"damaged, more than {100 * limit:g} in 100; check or copy the data again, "
                        "or raise --max_damaged")


def warn_of_damage(name: str, count: int) -> None:
    """Names a damaged image on stderr, the `count`-th."""
    warn(f"{one_line(name)}: damaged image, left out ({count} so far)")


class LabelledDataset(Dataset):
    """`images` as a torch data set of (transform(PIL image), label).

    A damaged image is named on stderr once, and replaced by the next one.

    Attributes:
        damaged: bool (n,), in memory that loading processes share.
    """

    def __init__(self, images: Images, transform: Callable | None = None) -> None:
        self.images, self.transform = images, transform
        self.damaged = torch.zeros(len(images), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        damaged: list[int] = []
        image, found = self.images.read_from(index, len(self), damaged)
        for candidate in damaged:
            if not self.damaged[candidate]:
                self.damaged[candidate] = True
                warn_of_damage(self.images.name(candidate), int(self.damaged.sum()))
        if image is None:
            raise UserError(f"{self.images.name(0)}: this and all other images are damaged")
        label = int(self.images.targets[found])
        return (self.transform(image) if self.transform else image), label

    def check(self, limit: float) -> None:
        """Raises UserError where too many of the images read so far were damaged."""
        if self.damaged.any():
            check_damaged(self.images, self.damaged.nonzero().flatten().tolist(), limit)


def measured_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of the pixels in [0, 1], one per RGB channel.

    Every image weighs the same; of more than 5,000, as many are sampled evenly.
    """
    sums, n = np.zeros((2, 3)), 0
    for index in np.unique(np.linspace(0, len(images) - 1, _STATISTICS_IMAGES).astype(int)):
        image, _ = images.read_from(int(index), 1, [])
        if image is not None:
            pixels = np.asarray(image).reshape(-1, 3) / 255
            sums += pixels.mean(axis=0), (pixels**2).mean(axis=0)
            n += 1
    if not n:
        raise UserError("none of the training images can be decoded; check --data")
    mean, square = sums / n
    std = np.sqrt(np.maximum(square - mean**2, 1e-6))
    return tuple(mean.round(6).tolist()), tuple(std.round(6).tolist())
