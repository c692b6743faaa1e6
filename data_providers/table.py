"""The table of data sets: a data set is a row, not a class. Torch-free."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from utils.errors import UserError
from utils.files import shipped
from utils.registry import get_row

Rgb = tuple[float, ...]  # one number for each of the three channels

# Training images on which a subnet's batch-norm statistics are recomputed, and those in a batch
# (Once for All's own numbers).
# DEVIATION bn-batch: the ofa package that the original pins takes batches of 100.
N_CALIBRATION, CALIBRATION_BATCH = 2000, 200
# Part of a data set's images that may be damaged; more stops what reads them.
MAX_DAMAGED = 0.01

# The folders of the splits, and what to do where one has no class folders.
_AS_IN_TRAIN = "move each file into a folder with the name of its class, as in train/"
PARTS = {"train": "move each file into a folder with the name of its class, as train/cat/cat.0.jpg",
         "val": _AS_IN_TRAIN, "valid": _AS_IN_TRAIN, "validation": _AS_IN_TRAIN,
         "test": "images without labels cannot be scored; move the folder away (validation.py "
                 f"--predict reads it), or {_AS_IN_TRAIN}"}

IMAGENET_SUPERNET = "data/ofa_mbv3_d234_e346_k357_w1.0"
DIGITS_SUPERNET = shipped("data/ofa_digits_d234_e346_k357_w0.35")


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before its files are read.

    Attributes:
        name: key in `DATASETS`.
        n_classes: number of classes; None where the files decide (`folder`).
        mean: of the pixels in [0, 1], one per RGB channel; None as above.
        std: standard deviation likewise.
        n_train: images of the official training set; None as above.
        n_test: images of the official test set.
        train_aug: steps of the search's training transform, keys of
            `transforms.TRAIN_STEPS`.
        crop_scale: smallest part of an image that a random crop of training holds, 0..1.
        eval_resize: the evaluation transform, a key of `transforms.EVAL_RESIZES`.
        balanced: draw every class equally often in training.
        n_epochs: of fine-tuning in an evaluation; 0 where the supernet's classifier serves.
        lr: learning rate of that fine-tuning.
        batch_size: batch size of that fine-tuning.
        vld_size: images split off the training set for validation; None validates on the test set.
        resolutions: input resolutions of the search space, in pixels.
        supernet: default path of the supernet's checkpoint.
    """

    name: str
    n_classes: int | None
    mean: Rgb | None
    std: Rgb | None
    n_train: int | None = None
    n_test: int | None = None
    train_aug: tuple[str, ...] = ("rrc", "flip")
    crop_scale: float = 0.08
    eval_resize: str = "crop"
    balanced: bool = False
    n_epochs: int = 5
    lr: float = 0.01
    batch_size: int = 128
    vld_size: int | None = None
    resolutions: tuple[int, ...] = tuple(range(192, 257, 4))
    supernet: str = IMAGENET_SUPERNET

    @property
    def packaged(self) -> bool:
        """Whether its images are part of scikit-learn, so that it has no folder."""
        return self.name == "digits"

    def refuse_folder(self, flag: str) -> None:
        """Raises UserError, with what to do, for a folder that would not be read."""
        if self.packaged:
            raise UserError(f"{flag}: would not be read, the images of {self.name} are part of "
                            "scikit-learn; add --dataset folder for your own images, or leave it "
                            "out")

    def check_n_classes(self, n_classes: int | None, path: str | None = None) -> int:
        """Returns the number of classes: the data set's, which `n_classes` must not contradict.

        Args:
            n_classes: what was asked for, if anything.
            path: the data; its `train/<class>` folders, where there are any, are counted.

        Raises:
            UserError: `n_classes` is given and another number, or is not given but needed; or the
                folders are not as many as the data set has classes.
        """
        counted = len(class_folders(os.path.join(path, "train"))) if path else 0
        if counted and self.n_classes not in (None, counted):
            raise UserError(f"{path}: {counted} class folders, but {self.name} has "
                            f"{self.n_classes}; use --dataset folder for other data")
        known = self.n_classes or counted or n_classes
        if path and not counted and self.name == "folder" and os.path.isdir(path):
            raise UserError(f"{path}: no class folders in train/; {what_is_there(path)}")
        if known is None:
            raise UserError(f"{self.name}: the number of classes is not known; "
                            "give --n_classes, or --data to count the class folders")
        if n_classes not in (None, known):
            raise UserError(f"--n_classes {n_classes}: {self.name} has {known} classes; "
                            "leave the flag out, or name another --dataset")
        return known


_CIFAR: dict[str, Any] = {
    "mean": (0.49139968, 0.48215827, 0.44653124), "std": (0.24703233, 0.24348505, 0.26158768),
    "n_train": 50_000, "n_test": 10_000}
_RAND = ("rrc", "flip", "rand-m9-mstd0.5")

# Sizes, normalisation and fine-tuning defaults: NSGANetV2 (arXiv 2007.10396) and its scripts.
_ROWS = (
    DatasetInfo("imagenet", 1000, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225),
                1_281_167, 50_000, train_aug=("rrc", "flip", "jitter"), n_epochs=0),
    DatasetInfo("cifar10", 10, **_CIFAR),
    DatasetInfo("cifar100", 100, **_CIFAR),
    DatasetInfo("cinic10", 10, (0.47889522, 0.47227842, 0.43047404),
                (0.24205776, 0.23828046, 0.25874835), 180_000, 90_000),
    DatasetInfo("fashion_mnist", 10, (0.2860,) * 3, (0.3530,) * 3, 60_000, 10_000),
    DatasetInfo("stl10", 10, (0.44671097, 0.4398105, 0.4066468),
                (0.2603405, 0.25657743, 0.27126738), 5_000, 8_000),
    DatasetInfo("aircraft", 100, (0.48933588, 0.51835374, 0.53879144),
                (0.22388883, 0.21641635, 0.24615606), 6_667, 3_333,
                train_aug=_RAND, lr=0.05),
    DatasetInfo("dtd", 47, (0.53298761, 0.47426084, 0.42627282),
                (0.26549756, 0.25473554, 0.26317280), 3_760, 1_880,
                train_aug=_RAND, eval_resize="squash", lr=0.05),
    DatasetInfo("pets", 37, (0.48288951, 0.44483949, 0.39566558),
                (0.25925665, 0.2532760, 0.25981017), 3_680, 3_669,
                train_aug=_RAND, lr=0.05),
    DatasetInfo("flowers102", 102, (0.51783618, 0.41067495, 0.32864168),
                (0.29722391, 0.24976049, 0.28533308), 2_040, 6_149,
                train_aug=("affine", "rrc"), balanced=True),
    # Mean and std of scikit-learn's pixels. The digits fill their 8x8 frame: no crop, no flip.
    DatasetInfo("digits", 10, (0.3053,) * 3, (0.3760,) * 3, 1_197, 600,
                train_aug=("stretch", "shake"), eval_resize="squash", n_epochs=0, batch_size=64,
                vld_size=300, resolutions=tuple(range(32, 49, 4)), supernet=DIGITS_SUPERNET),
    DatasetInfo("folder", None, None, None, batch_size=32),
)
DATASETS: dict[str, DatasetInfo] = {row.name: row for row in _ROWS}


def cache_need_gb(n_images: int, resolutions: Iterable[int]) -> float:
    """Returns the GB that the cache needs for images in all resolutions, as RGB bytes.

    Args:
        n_images: to validate and to calibrate on.
        resolutions: in pixels.
    """
    return n_images * sum(3 * r * r for r in resolutions) / 1e9


def class_folders(path: str | os.PathLike[str]) -> list[str]:
    """Returns the names of the class folders in `path`, sorted: their labels are 0, 1, ...

    Hidden folders, which tools leave, are no classes. [] where `path` cannot be read.
    """
    try:
        with os.scandir(os.fspath(path)) as entries:
            return sorted(entry.name for entry in entries
                          if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []


def what_is_there(root: str | os.PathLike[str]) -> str:
    """Returns what a folder without the class folders of a known layout holds, and what to do."""
    part = next((part for part in PARTS if count_unsorted(os.path.join(root, part))), None)
    if part is not None:
        return describe_unsorted(root, part)
    names = class_folders(root)
    if "train" in names:
        return "a part of the images belongs into val/, in folders named as those in train/"
    held = f"{len(names)} folders ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" \
        if names else "no folders"
    return (f"it holds {held}: images belong into train/<class>/, and a part of those of each "
            "class into val/<class>/")


def count_unsorted(folder: str | os.PathLike[str]) -> int:
    """Returns the number of files of a folder that has no class folders; 0 for any other."""
    try:
        with os.scandir(os.fspath(folder)) as entries:
            files = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return 0
    return 0 if any(entry.is_dir() for entry in files) else len(files)


def describe_unsorted(root: str | os.PathLike[str], part: str) -> str:
    """Returns what is wrong with one of `PARTS` whose images are in no class folders."""
    return (f"{part}/ holds {count_unsorted(os.path.join(root, part))} files and no class folders: "
            f"{PARTS.get(part, PARTS['val'])}")


def get_dataset_info(name: str) -> DatasetInfo:
    """Returns the row called `name`; raises UserError, listing the names, when there is none."""
    return get_row(DATASETS, name, "data set")
