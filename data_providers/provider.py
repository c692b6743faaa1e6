"""One provider for every data set: the loaders that a search, a training and a validation need."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import PIL
import timm
import torch
import torchvision

from data_providers import loading, table
from data_providers.cache import ArrayCache, Entry, content_key
from data_providers.datasets import class_names, count_classes, has_split, load_images
from data_providers.images import Images, check_damaged, measured_statistics, warn_of_damage
from data_providers.loading import Batches, Geometry, RawBatch, Request
from data_providers.table import DatasetInfo, get_dataset_info
from data_providers.transforms import Normalise, eval_geometry, train_geometry
from utils.devices import copies_alongside
from utils.errors import UserError, one_line, warn

# Seeds of Once-for-All's provider (arXiv 1908.09791): its splits are ours.
VALIDATION_SEED = 2147483647
CALIBRATION_SEED = 937162211
# 17 resolutions x (10,000 validation + 2,000 calibration images) of 192..256 px are 31 GB.
DEFAULT_CACHE_GB = 32.0
_ORIGINALS_SHARE = 4  # decoded files are kept where they need less than this part of the cache
_PROBES = 64  # files whose sizes show, without opening all, that there is not enough room
_VERSIONS = {"pillow": PIL.__version__, "torchvision": torchvision.__version__,
             "timm": timm.__version__, "numpy": np.__version__, "pictures": 2}


class DataProvider:
    """The images of one data set, split, transformed, normalised, in batches.

    The same seed gives the same images, on any number of loading processes, cached or not. A
    damaged image is named on stderr and left out (in training it is replaced by the next one).

    Args:
        dataset: a row of `DATASETS`.
        path: its folder, in one of the layouts of `datasets.LAYOUTS`; `digits` needs none.
        vld_size: images split off the training set, by a fixed seed, for validation. None takes
            the data set's own; where that is None as well, the validation folder (of `folder`),
            else the test set, validates.
        seed: of the training order, the training transforms, and the calibration images.
        n_workers: processes that load; 0 loads in this one.
        cache_dir: folder of the decoded images; None takes $MSUNAS_CACHE or ~/.cache/msunas.
        cache_gb: its bound in GB; 0 switches it off.
        transform: evaluation transform, `crop` or `squash`; None takes the data set's own.
        crop_scale: smallest part of an image that a random crop of training, and of calibration,
            holds, 0..1; None takes the data set's own.
        mean: of the pixels in [0, 1] for each channel; None takes the table's, or measures.
        std: standard deviation likewise.
        download: let torchvision download what is missing into `path`.
        max_damaged: part of a split's images, 0..1, that may be damaged (one always may).

    Attributes:
        info: the data set's row, with what the files or the arguments decide filled in;
            `eval_resize` is the evaluation transform in use.
        image_count_decoded: images decoded from files so far.
        damaged: names of the images that could not be decoded.

    Raises:
        UserError: see `load_images`; a vld_size that the training set does not have; in use, more
            damaged images than `max_damaged`.
    """

    def __init__(self, dataset: str, path: str | os.PathLike | None = None, *,
                 vld_size: int | None = None, seed: int = 0, n_workers: int = 0,
                 cache_dir: str | os.PathLike | None = None, cache_gb: float = DEFAULT_CACHE_GB,
                 transform: str | None = None, mean: Sequence[float] | None = None,
                 std: Sequence[float] | None = None, crop_scale: float | None = None,
                 download: bool = False, max_damaged: float = table.MAX_DAMAGED) -> None:
        self.max_damaged = max_damaged
        self.path, self.seed, self.n_workers, self.download = path, seed, n_workers, download
        self.cache = ArrayCache(cache_dir, cache_gb)
        self.image_count_decoded = 0
        self.damaged: set[str] = set()
        self._official: dict[str, Images] = {}
        self._images: dict[str, Images] = {}
        self._decoded: dict[int, Images] = {}
        self.info = get_dataset_info(dataset)
        self.vld_size = self.info.vld_size if vld_size is None else vld_size
        if self.vld_size is not None:
            self._split_off(self.vld_size)
        elif not download:
            has_split(dataset, path, "test", required=True)
        self.info = self._filled_in(transform, mean, std, crop_scale)
        eval_geometry(self.info, self.info.resolutions[0])  # an unknown name shows now

    @classmethod
    def of(cls, args: Any, n_workers: int, **options: Any) -> Self:
        """Returns the images that parsed flags of `data_providers.flags` name, or such options.

        Other arguments, and the errors, are those of the constructor.

        Raises:
            UserError: a folder was typed that would not be read.
        """
        if "data" in getattr(args, "typed", ()):
            table.get_dataset_info(args.dataset).refuse_folder(f"--data {args.data}")
        return cls(args.dataset, args.data, vld_size=args.vld_size, seed=args.seed,
                   n_workers=n_workers, download=args.download,
                   max_damaged=getattr(args, "max_damaged", table.MAX_DAMAGED), **options)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        assert self.info.n_classes is not None  # counted in the files
        return self.info.n_classes

    def facts(self) -> dict[str, Any]:
        """Returns what a network's file records of its images, to reproduce its accuracy.

        `dataset`, `transform`, `mean` and `std` of each channel, and the classes' names by label.
        """
        mean, std = self.info.mean or (), self.info.std or ()
        return {"dataset": self.info.name, "transform": self.info.eval_resize,
                "mean": list(mean), "std": list(std), "class_names": self._class_names()}

    @property
    def n_train(self) -> int:
        """Number of images to train on, less those split off."""
        return len(self.images("train"))

    @property
    def n_valid(self) -> int:
        """Number of images to validate on."""
        return len(self.images("valid"))

    @property
    def n_test(self) -> int:
        """Number of images to test on."""
        return len(self.images("test"))

    @property
    def holds_out_validation(self) -> bool:
        """Whether the validation images are others than the test images."""
        return self.vld_size is not None or has_split(self.info.name, self.path, "valid")

    def images(self, split: str) -> Images:
        """Returns the images of `train`, `valid` or `test`; lists them when first asked for."""
        if split not in self._images:
            if split not in ("train", "valid", "test"):
                raise UserError(f"unknown split {split!r}; choose from train, valid, test")
            official = split
            if split == "valid" and not has_split(self.info.name, self.path, "valid"):
                official = "test"
            self._images[split] = self._listed(official)
        return self._images[split]

    def train_loader(self, resolution: int, batch_size: int | None = None, *,
                     seed: int | None = None, drop_last: bool = False, rank: int = 0,
                     world_size: int = 1, transform: Geometry | None = None,
                     device: Any = None) -> Batches:
        """Returns batches of training images, another order and other crops in each pass.

        Args:
            resolution: r, in pixels.
            batch_size: of this process; None takes the data set's own.
            seed: None takes the provider's.
            drop_last: leave out the last batch where it is not full. One image alone is always
                left out; the only batch never is.
            rank: this process, of distributed training.
            world_size: number of those processes.
            transform: PIL image -> PIL image or uint8 array, all of one size; None takes the
                search's training transform. Random numbers must come from the global generators,
                which are seeded for each image.
            device: where the batches go to; None leaves them in memory.

        Returns:
            Batches of float32 images (b, 3, r, r), normalised, and int64 labels (b,).
        """
        images = self._decoded_once(self.images("train"))
        sampler = loading.SeededBatches(images.targets, batch_size or self.info.batch_size,
                                        self.seed if seed is None else seed, self.info.balanced,
                                        drop_last, rank, world_size)
        reader = loading.Reader(images, transform or train_geometry(self.info, resolution),
                                replace=True)
        loader = loading.stream(reader, sampler, self.n_workers, copies_alongside(device),
                                keep_workers=True)
        return Batches(lambda: self._watched(images, loader), len(sampler),
                       self._finisher(device), device, sampler)

    def eval_batches(self, split: str, resolution: int, batch_size: int = 200, *,
                     device: Any = None, rank: int = 0, world_size: int = 1) -> Batches:
        """Returns the images of a split in batches, in a fixed order.

        Args:
            split: `valid` or `test`; `train` gives the training images, transformed as these.
            resolution: r, in pixels.
            batch_size: images in a batch.
            device: where the batches go to; None leaves them in memory.
            rank: this process, which gets the batches rank, rank + world_size, ...
            world_size: number of processes.

        Returns:
            Batches of float32 images (b, 3, r, r), normalised, and int64 labels (b,): the same to
            the last bit whether they come from the cache or not.
        """
        images = self.images(split)
        return self._fixed(images, loading.requests_of(range(len(images))),
                           eval_geometry(self.info, resolution), resolution, batch_size, device,
                           slice(rank, None, world_size))

    def calibration_batches(self, resolution: int, n_images: int = table.N_CALIBRATION,
                            batch_size: int = table.CALIBRATION_BATCH, *,
                            device: Any = None) -> Batches:
        """Returns training images to recompute the statistics of batch normalisation on.

        They are a fixed choice, sent through the training transform once, by the provider's seed.

        DEVIATION bn-images: the original draws them before the validation images are split off.

        Args:
            resolution: r, in pixels.
            n_images: number of images; all where there are fewer.
            batch_size: images in a batch.
            device: where the batches go to; None leaves them in memory.

        Returns:
            Batches of float32 images (b, 3, r, r), normalised.
        """
        name = f"calibration {n_images}"
        if name not in self._images:
            train = self.images("train")
            order = _order(len(train), CALIBRATION_SEED)
            self._images[name] = train.subset(order[:n_images])
        images = self._images[name]
        requests = loading.requests_of(range(len(images)), loading.new_generator(self.seed))
        batches = self._fixed(images, requests, train_geometry(self.info, resolution), resolution,
                              batch_size, device)
        return Batches(batches.start, len(batches), lambda raw: batches.finish(raw)[0],
                       device)

    def _listed(self, split: str) -> Images:
        if split not in self._official:
            self._official[split] = load_images(self.info.name, self.path, split, self.download)
        return self._official[split]

    def _split_off(self, size: int) -> None:
        images = self._listed("train")
        if not 0 < size < len(images):
            raise UserError(f"--vld_size {size}: the training set has {len(images)} images, of "
                            f"which 1 to {len(images) - 1} can be split off")
        order = _order(len(images), VALIDATION_SEED)
        self._images = {"valid": images.subset(order[:size]), "train": images.subset(order[size:])}
        left = np.setdiff1d(images.targets, self._images["train"].targets)
        if len(left):
            self._warn(f"--vld_size {size} leaves classes without a training image: {len(left)}, "
                       f"the first one {self._class_names()[left[0]]!r}; choose a smaller one")

    def _class_names(self) -> list[str]:
        return class_names(self.info.name, self.path)

    def _warn(self, text: str) -> None:
        warn(f"{one_line(self.path or self.info.name)}: {text}")

    def _filled_in(self, transform: str | None, mean: Sequence[float] | None,
                   std: Sequence[float] | None, crop_scale: float | None) -> DatasetInfo:
        info = replace(self.info, n_classes=count_classes(self.info.name, self.path),
                       eval_resize=transform or self.info.eval_resize,
                       crop_scale=crop_scale or self.info.crop_scale,
                       mean=tuple(mean) if mean else self.info.mean,
                       std=tuple(std) if std else self.info.std)
        if info.n_classes == 1:
            self._warn(f"only one class, {self._class_names()[0]!r}, so that every network is "
                       "right; each class needs a folder of its own")
        if info.mean and info.std:
            return info
        images = self._listed("train")
        key = content_key(kind="statistics", images=images.fingerprint, versions=_VERSIONS)
        mean, std = self.cache.note(key, lambda: measured_statistics(images))
        return replace(info, mean=info.mean or tuple(mean), std=info.std or tuple(std))

    def _fixed(self, images: Images, requests: Sequence[Request], geometry: Geometry,
               resolution: int, batch_size: int, device: Any,
               part: slice = slice(None)) -> Batches:
        """Returns batches that are the same in every pass: mapped from the cache, or made anew."""

        def make(notes: dict[str, Any]) -> Iterator[np.ndarray]:
            notes.update(labels=[], damaged=[])
            reader = loading.Reader(self._decoded_once(images), geometry)
            parts = loading.cut(requests, 100)
            for raw in self._watched(images, loading.stream(reader, parts, self.n_workers)):
                notes["labels"] += raw.labels.tolist()
                notes["damaged"] += raw.damaged
                yield raw.images.numpy()

        key = content_key(kind="batches", images=images.fingerprint, geometry=repr(geometry),
                          seeds=[request.seed for request in requests], versions=_VERSIONS)
        entry = self.cache.get(key, (len(images), resolution, resolution, 3), make)
        own = loading.cut(requests, batch_size)[part]
        loader: Iterable[RawBatch] = _mapped(entry, batch_size)[part] if entry else loading.stream(
            loading.Reader(images, geometry), own, self.n_workers, copies_alongside(device))

        def start() -> Iterator[RawBatch]:
            raw = self._watched(images, loader)
            return loading.ahead(raw, _pinned) if entry and copies_alongside(device) else raw

        return Batches(start, len(own), self._finisher(device), device)

    def _decoded_once(self, images: Images) -> Images:
        """Returns the images out of the cache, decoded when first asked for, if there is room."""
        room = self.cache.max_bytes // _ORIGINALS_SHARE
        if images.in_memory or id(images) in self._decoded:
            return self._decoded.get(id(images), images)
        probes = np.unique(np.linspace(0, len(images) - 1, _PROBES).astype(int)).tolist()
        if np.mean([3 * math.prod(images.size(i)) for i in probes]) * len(images) > room:
            return images

        def make(notes: dict[str, Any]) -> Iterator[np.ndarray]:
            notes["sizes"] = []
            parts = loading.cut(loading.requests_of(range(len(images))), 100)
            reader = loading.Decoder(images)
            for raw in self._watched(images, loading.stream(reader, parts, self.n_workers)):
                notes["sizes"] += [pixels.shape[:2] for pixels in raw.images]
                yield np.concatenate([pixels.ravel() for pixels in raw.images])

        identity: dict[str, Any] = {"images": images.fingerprint, "versions": _VERSIONS}
        n_bytes = self.cache.note(
            content_key(kind="size", **identity),
            lambda: sum(3 * math.prod(images.size(i)) for i in range(len(images))))
        if n_bytes <= room:
            key = content_key(spare=True, kind="files", **identity)
            entry = self.cache.get(key, (n_bytes,), make)
            if entry:
                self._decoded[id(images)] = loading.DecodedImages(images, entry)
        return self._decoded.get(id(images), images)

    def _watched(self, images: Images, loader: Iterable[RawBatch]) -> Iterator[RawBatch]:
        """Passes raw batches on, counts the decoded, names the damaged.

        Raises:
            UserError: more than `max_damaged` are damaged.
        """
        seen: set[int] = set()
        for raw in loader:
            self.image_count_decoded += raw.decoded
            seen.update(raw.damaged)
            for name in (images.name(index) for index in raw.damaged):
                if name not in self.damaged:
                    self.damaged.add(name)
                    warn_of_damage(name, len(self.damaged))
            check_damaged(images, sorted(seen), self.max_damaged)
            yield raw

    def _finisher(self, device: Any) -> Callable[[RawBatch], Any]:
        mean, std = self.info.mean, self.info.std
        assert mean is not None and std is not None  # measured where the table has none
        normalise = Normalise(mean, std, device)

        def finish(raw: RawBatch) -> tuple[torch.Tensor, torch.Tensor]:
            return normalise(raw.images), raw.labels.to(device, non_blocking=True)

        return finish


def _mapped(entry: Entry, batch_size: int) -> list[RawBatch]:
    """Returns the batches of a cached array, as views."""
    labels = torch.tensor(entry.meta["labels"], dtype=torch.int64)
    images = torch.from_numpy(entry.array[:len(labels)])
    batches = [RawBatch(*part, [], 0) for part in zip(
        images.split(batch_size), labels.split(batch_size), strict=True)]
    return [batches[0]._replace(damaged=entry.meta["damaged"]), *batches[1:]]


def _order(n: int, seed: int) -> list[int]:
    """Returns 0..n-1 shuffled by a seed, as Once-for-All does."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()


def _pinned(raw: RawBatch) -> RawBatch:
    """Returns a batch in page-locked memory, from which the device copies by itself."""
    return raw._replace(images=raw.images.pin_memory(), labels=raw.labels.pin_memory())
