"""The images of a fine-tuning: a data set of the table, or what one of timm's readers reads."""

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import IterableDataset, Subset

from data_providers import DatasetInfo, get_dataset_info
from data_providers.images import LabelledDataset
from data_providers.provider import DataProvider
from data_providers.table import DATASETS, class_folders
from networks.configs import choose_transform
from training.flags import PACKAGES, TAR, flag_or_config
from utils.errors import UserError, one_line
from utils.packages import require

log = logging.getLogger("train")

IMAGENET_CLASSES = 1000


class ImageSource(NamedTuple):
    """Labelled images to train on and to evaluate on.

    Attributes:
        train: PIL images and labels; its `transform` can be set, as `valid`'s.
        valid: likewise.
        info: class count, mean and std, and the name of the evaluation transform.
        provider: of a data set of the table; None for timm's readers.
    """

    train: Any
    valid: Any
    info: DatasetInfo
    provider: DataProvider | None = None

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        assert self.info.n_classes is not None
        return self.info.n_classes

    def facts(self) -> dict[str, Any]:
        """Returns what a network's file records of its images, as `DataProvider.facts`."""
        if self.provider:
            return self.provider.facts()
        index = class_index(self.train)
        return {"transform": self.info.eval_resize, "mean": list(self.info.mean or ()),
                "std": list(self.info.std or ()),
                "class_names": sorted(index, key=index.__getitem__)}

    @property
    def n_train(self) -> int:
        """Number of images to train on."""
        return len(self.train)


class EveryNth(Subset[tuple[Any, int]]):
    """Every n-th image of a data set, with its transform: what one of n processes evaluates."""

    dataset: Any
    transform = property(lambda self: self.dataset.transform,
                         lambda self, transform: setattr(self.dataset, "transform", transform))

    def __init__(self, images: Any, rank: int, size: int) -> None:
        super().__init__(images, range(rank, len(images), size))


def part_of(images: Any, rank: int, size: int) -> Any:
    """Returns what one of `size` processes evaluates; streams split themselves."""
    return images if isinstance(images, IterableDataset) else EveryNth(images, rank, size)


def open_source(args: argparse.Namespace, config: dict[str, Any]) -> ImageSource:
    """Returns the images that the flags of train_imagenet.py name.

    Args:
        args: `data`, `dataset`, the splits, `mean`, `std`; see the script's help.
        config: of the network: its mean, std, transform and class count are used where neither a
            flag nor the data has them.

    Raises:
        UserError: no such data, or a package that its reader needs is missing.
    """
    data = Path(args.data)
    name = args.dataset or guess_name(data, args.train_split)
    kind = name.split("/")[0].lower()
    if kind not in (*PACKAGES, TAR):
        return _of_provider(args, name, data, config)
    require(f"--dataset {name}", *filter(None, (PACKAGES.get(kind),)))
    train, valid = (_read(args, name, data, split, split == args.train_split)
                    for split in (args.train_split, args.val_split))
    info = replace(DATASETS["folder"], n_classes=_count_classes(args, train, config),
                   eval_resize=config.get("transform") or "crop",
                   mean=flag_or_config(args, "mean", config) or DATASETS["imagenet"].mean,
                   std=flag_or_config(args, "std", config) or DATASETS["imagenet"].std)
    return ImageSource(train, valid, info)


def guess_name(data: Path, train_split: str) -> str:
    """Returns the data set's name where none is typed, by the files in the folder."""
    if (data / f"{train_split}.tar").is_file():
        return TAR
    n_classes = len(class_folders(data / "train"))
    return "imagenet" if n_classes == IMAGENET_CLASSES else "folder"


def _of_provider(args: argparse.Namespace, name: str, data: Path,
                 config: dict[str, Any]) -> ImageSource:
    get_dataset_info(name)
    provider = DataProvider(name, data, vld_size=args.vld_size, n_workers=args.workers,
                            download=args.download, max_damaged=args.max_damaged,
                            mean=flag_or_config(args, "mean", config),
                            std=flag_or_config(args, "std", config),
                            transform=choose_transform(None, config, name, args.model_config,
                                                       log.warning))
    return ImageSource(LabelledDataset(provider.images("train")),
                  LabelledDataset(provider.images("valid")), provider.info, provider)


def _read(args: argparse.Namespace, name: str, data: Path, split: str, is_training: bool) -> Any:
    """Returns one split, by timm's reader."""
    from timm.data import create_dataset

    root = data / f"{split}.tar" if name == TAR else data
    if name == TAR and not root.is_file():
        raise UserError(f"{root}: no such file; --train-split and --val-split name the archives")
    n_images = args.train_num_samples if is_training else args.val_num_samples
    try:
        return create_dataset("" if name == TAR else name, root=str(root), split=split,
                              is_training=is_training, batch_size=args.batch_size, seed=args.seed,
                              num_samples=n_images, search_split=False)
    except (OSError, RuntimeError, ValueError, LookupError, AssertionError, TypeError,
            ImportError) as error:
        raise UserError(f"--dataset {name}, split {split!r}: {data} cannot be read: "
                        f"{one_line(error)[:200]}") from None


def _count_classes(args: argparse.Namespace, images: Any, config: dict[str, Any]) -> int:
    """Returns the class count of the reader; a stream knows none: the flag's, or the network's."""
    index = class_index(images)
    return len(index) if index else args.num_classes or config["classifier"]["out_features"]


def class_index(images: Any) -> dict[str, int]:
    """Returns the labels of a reader by the names of their classes; empty where it has none."""
    for name in ("class_to_idx", "class_name_to_idx"):
        if index := getattr(images.reader, name, None):
            return dict(index)
    return {}
