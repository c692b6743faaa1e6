"""timm's loaders over a source of images: its augmentation, its order, its prefetching."""

import argparse
from collections.abc import Iterator
from typing import Any

from timm.data import AugMixDataset, FastCollateMixup, create_loader
from timm.data.transforms import ToNumpy
from torchvision.transforms import Compose

from data_providers.images import LabelledDataset
from data_providers.loading import loading_processes
from data_providers.transforms import eval_geometry
from training.flags import mixes_labels
from training.sources import ImageSource, part_of
from training.world import World
from utils.devices import copies_alongside


def make_loaders(args: argparse.Namespace, source: ImageSource, size: int, world: World,
                 n_classes: int) -> tuple["Watched", Any]:
    """Returns the loader of the training images, and that of the images to evaluate on.

    Each process gets its own part of both. Normalisation happens on the device. The evaluation
    transform is the program's own, with --crop-pct or --interpolation timm's.

    Args:
        args: the flags of train_imagenet.py.
        source: the images.
        size: r, in pixels.
        world: the processes.
        n_classes: of the network, for mixed labels.
    """
    n_workers = loading_processes(args.workers)
    shared = {"input_size": (3, size, size), "mean": source.info.mean, "std": source.info.std,
              "device": world.device, "num_workers": n_workers, "persistent_workers": False,
              "pin_memory": args.pin_mem or copies_alongside(world.device)}
    train = _train_loader(args, source, world, n_classes, shared)
    return (Watched(train, source.train, args.max_damaged, args.mixup_off_epoch),
            _eval_loader(args, source, size, world, shared))


class Watched:
    """Batches of a training, in which not too many images may be damaged.

    Args:
        batches: of timm's loader, whose processes record what is damaged.
        images: the data set; timm's readers keep no record.
        limit: part of them, 0..1, that may be damaged.
        mixup_off_epoch: from this epoch on labels are not mixed; 0: always.
    """

    def __init__(self, batches: Any, images: Any, limit: float, mixup_off_epoch: int = 0) -> None:
        self.batches, self.limit, self.mixup_off_epoch = batches, limit, mixup_off_epoch
        self.images = images if isinstance(images, LabelledDataset) else None

    def set_epoch(self, epoch: int) -> None:
        """Prepares the next pass."""
        for part in (self.batches.dataset, self.batches.sampler):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        if self.mixup_off_epoch and epoch >= self.mixup_off_epoch:
            self.batches.mixup_enabled = False

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            if self.images:
                self.images.check(self.limit)
            yield batch


def _train_loader(args: argparse.Namespace, source: ImageSource, world: World, n_classes: int,
                  shared: dict[str, Any]) -> Any:
    mixup = FastCollateMixup(
        mixup_alpha=args.mixup, cutmix_alpha=args.cutmix, cutmix_minmax=args.cutmix_minmax,
        prob=args.mixup_prob, switch_prob=args.mixup_switch_prob, mode=args.mixup_mode,
        label_smoothing=args.smoothing, num_classes=n_classes) if mixes_labels(args) else None
    images: Any = AugMixDataset(source.train, args.aug_splits) if args.aug_splits \
        else source.train
    plain = args.interpolation or "bilinear"
    return create_loader(
        images, batch_size=args.batch_size, is_training=True, no_aug=args.no_aug,
        re_prob=args.reprob, re_mode=args.remode, re_count=args.recount, re_split=args.resplit,
        scale=args.scale, ratio=args.ratio, hflip=args.hflip, vflip=args.vflip,
        color_jitter=args.color_jitter, auto_augment=args.aa, num_aug_splits=args.aug_splits,
        num_aug_repeats=args.aug_repeats, collate_fn=mixup, distributed=world.size > 1,
        interpolation=plain if args.no_aug else args.train_interpolation, **shared)


def _eval_loader(args: argparse.Namespace, source: ImageSource, size: int, world: World,
                 shared: dict[str, Any]) -> Any:
    batch_size = args.validation_batch_size or args.batch_size
    # DEVIATION judged-images: the original resizes to floor(r / 0.875), bicubic.
    own_transform = not (args.crop_pct or args.interpolation)
    if source.provider and own_transform:  # decoded once and cached, damaged images left out
        return source.provider.eval_batches("valid", size, batch_size, device=world.device,
                                            rank=world.rank, world_size=world.size)
    loader = create_loader(
        part_of(source.valid, world.rank, world.size), is_training=False, crop_pct=args.crop_pct,
        batch_size=batch_size, interpolation=args.interpolation or "bilinear", **shared)
    if own_transform:
        loader.dataset.transform = Compose([*eval_geometry(source.info, size).transforms,
                                            ToNumpy()])
    return loader
