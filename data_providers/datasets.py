"""From a name and a folder to labelled images, whichever of the known layouts the folder has."""

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets as tv

from data_providers.cache import file_lock
from data_providers.images import ArrayImages, FileImages, Images
from data_providers.pictures import list_pictures, warn_of_others
from data_providers.table import (
    DatasetInfo,
    class_folders,
    count_unsorted,
    describe_unsorted,
    get_dataset_info,
    what_is_there,
)
from utils.errors import UserError, one_line, warn

SPLITS = ("train", "test")
_DIGITS_SEED = 0


@dataclass(frozen=True)
class Layout:
    """One arrangement of a data set's files in a folder.

    Attributes:
        name: what a message calls it.
        needs: for each split, the relative paths without which it is not this layout.
        load: (root, split) -> Images; may raise RuntimeError, ValueError or an OSError.
        downloads: whether `load` takes `download=True`.
        by_folder: whether each class has a folder of its own.
        classes: root -> names of the classes by label, where it is not by folder.
    """

    name: str
    needs: dict[str, tuple[str, ...]]
    load: Callable[..., Images]
    downloads: bool = False
    by_folder: bool = False
    classes: Callable[[Path], Sequence[str]] = lambda root: ()

    def missing(self, root: Path, split: str) -> str | None:
        """Returns the first path that is missing below `root`; None where nothing is."""
        return next((path for path in self.needs[split] if not (root / path).exists()), None)


def _of_files(files: Iterable[Any], labels: Iterable[int]) -> FileImages:
    return FileImages([str(path) for path in files], list(labels))


def _load_folders(root: Path, split: str, folders: dict[str, tuple[str, ...]]) -> Images:
    present = [root / name for names in folders.values() for name in names
               if (root / name).is_dir()]
    classes = {part: _named_folders(part) for part in present}
    for part in present:
        if not classes[part] and count_unsorted(part):
            raise UserError(f"{root}: {describe_unsorted(root, part.name)}")
        if odd := classes[part].keys() ^ classes[present[0]].keys():
            raise UserError(f"{part}: the class folder {min(odd)!r} is in only one of it and "
                            f"{present[0]}; both must have the same class folders")
    parts = [root / name for name in folders[split]]
    names = [*classes[present[0]]]
    listed = {(part, label): list_pictures(part / classes[part][name])
              for part in parts for label, name in enumerate(names)}
    found = [(path, label) for (_, label), (pictures, _) in listed.items() for path in pictures]
    others = [path for _, rest in listed.values() for path in rest]
    warn_of_others(root, others, len(found) + len(others))
    if found:
        _check_all_have_images(root, split, names, {label for _, label in found})
    return _of_files((path for path, _ in found), (label for _, label in found))


def _named_folders(part: Path) -> dict[str, str]:
    """Returns the class folders by their names in composed form, in the order of the labels.

    macOS writes an accent as a character of its own, so that equal names can differ in their bytes.
    """
    names = class_folders(part)
    found = {unicodedata.normalize("NFC", name): name for name in names}
    if len(found) < len(names):
        twice = next(name for name in names if name not in found.values())
        raise UserError(f"{part}: two class folders have the name {twice!r}, in different "
                        "encodings of its accents; join them")
    return found


def _check_all_have_images(root: Path, split: str, names: Sequence[str], labels: set[int]) -> None:
    """Refuses classes without a training image; elsewhere they print a warning."""
    empty = [name for label, name in enumerate(names) if label not in labels]
    if not empty:
        return
    text = (f"{one_line(root)}: {len(empty)} of {len(names)} class folders of {split} hold no "
            f"image, the first one {empty[0]!r}")
    if split == "train":
        raise UserError(f"{text}; add images, or remove the folders from all splits")
    warn(f"{text}; their classes count all the same")


def folders(**splits: str) -> Layout:
    """Returns the layout of class folders; `+` joins folders that make one split together."""
    names = {split: tuple(folder.split("+")) for split, folder in splits.items()}
    return Layout(f"class folders in {', '.join(f'{name}/' for name in splits.values())}", names,
                  partial(_load_folders, folders=names), by_folder=True)


def _load_cifar(root: Path, split: str, kind: type, download: bool = False) -> Images:
    data = kind(root, train=split == "train", download=download)
    return ArrayImages(data.data, data.targets)


def _load_grey(root: Path, split: str, kind: type, download: bool = False) -> Images:
    data = kind(root, train=split == "train", download=download)
    return ArrayImages(np.repeat(data.data.numpy()[..., None], 3, axis=3), data.targets)


class STL10(tv.STL10):
    """STL-10 without its unlabelled images, whose 2.7 GB need not be there, nor be checked."""

    train_list = tv.STL10.train_list[:2]


def _load_stl10(root: Path, split: str, kind: type, download: bool = False) -> Images:
    data = kind(root, split=split, download=download)
    return ArrayImages(np.ascontiguousarray(data.data.transpose(0, 2, 3, 1)), data.labels)


def _load_listed(root: Path, split: str, kind: Callable, parts: dict[str, tuple[str, ...]],
                 files: str = "_image_files", download: bool = False) -> Images:
    loaded = [kind(root, split=part, download=download) for part in parts[split]]
    return _of_files((path for data in loaded for path in getattr(data, files)),
                     (label for data in loaded for label in data._labels))


class Aircraft(tv.FGVCAircraft):
    """FGVC-Aircraft with `data/` in the folder itself instead of in `fgvc-aircraft-2013b`."""

    _data_path = property(lambda self: str(self.root), lambda self, path: None)


_TRAIN_VAL = {"train": ("train", "val"), "test": ("test",)}
_TRAINVAL = {"train": ("trainval",), "test": ("test",)}


def _torchvision(kind: type, needs: tuple[str, ...], load: Callable, **options: Any) -> Layout:
    return Layout(f"torchvision's {kind.__name__}", dict.fromkeys(SPLITS, needs),
                  partial(load, kind=kind, **options), downloads=True,
                  classes=partial(_torchvision_classes, kind=kind))


def _torchvision_classes(root: Path, kind: Any) -> Sequence[str]:
    test = {"train": False} if issubclass(kind, (tv.CIFAR10, tv.MNIST)) else {"split": "test"}
    return tuple(map(str, getattr(kind(root, **test), "classes", ())))


def load_digits(split: str) -> Images:
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels, as RGB.

    The split, 1,197 for training and 600 for testing, is stratified and fixed.
    """
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    data = sklearn_digits()
    parts = train_test_split(np.arange(len(data.target)), test_size=600, stratify=data.target,
                             random_state=_DIGITS_SEED)
    indices = parts[SPLITS.index(split)]
    grey = np.rint(data.images[indices] * (255 / 16)).astype(np.uint8)
    return ArrayImages(np.repeat(grey[..., None], 3, axis=3), data.target[indices])


_VALIDATION = ("val", "valid", "validation")
_PLAIN = tuple(folders(train="train", test=test)
               for test in ("test", *_VALIDATION))
# The first layout that fits is used.
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "imagenet": _PLAIN[1:],
    "cifar10": (_torchvision(tv.CIFAR10, ("cifar-10-batches-py",), _load_cifar),
                *_PLAIN),
    "cifar100": (_torchvision(tv.CIFAR100, ("cifar-100-python",), _load_cifar),
                 *_PLAIN),
    "cinic10": (folders(train="train_and_valid", test="test"),
                folders(train="train+valid", test="test")),
    "fashion_mnist": (_torchvision(tv.FashionMNIST, tuple(
        f"FashionMNIST/raw/{part}" for part in (
            "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte")), _load_grey), *_PLAIN),
    "stl10": (_torchvision(STL10, ("stl10_binary",), _load_stl10), *_PLAIN),
    "aircraft": (_torchvision(tv.FGVCAircraft, ("fgvc-aircraft-2013b/data",), _load_listed,
                              parts=_TRAINVAL),
                 replace(_torchvision(Aircraft, ("data/images",), _load_listed, parts=_TRAINVAL),
                         name="FGVC-Aircraft's data/", downloads=False), *_PLAIN),
    "dtd": (_torchvision(tv.DTD, ("dtd/dtd/images", "dtd/dtd/labels"), _load_listed,
                         parts=_TRAIN_VAL), _PLAIN[2], *_PLAIN[:2], _PLAIN[3]),
    "pets": (_torchvision(tv.OxfordIIITPet, ("oxford-iiit-pet/images",
                                             "oxford-iiit-pet/annotations"), _load_listed,
                          parts=_TRAINVAL, files="_images"), *_PLAIN),
    "flowers102": (_torchvision(tv.Flowers102, ("flowers-102/jpg", "flowers-102/setid.mat",
                                                "flowers-102/imagelabels.mat"), _load_listed,
                                parts=_TRAIN_VAL), *_PLAIN),
    "folder": (*(folders(train="train", valid=valid, test="test") for valid in _VALIDATION),
               *_PLAIN[1:]),
}


def load_images(name: str, path: str | os.PathLike | None, split: str,
                download: bool = False) -> Images:
    """Lists the images of a data set; decodes none.

    Args:
        name: a row of `DATASETS`.
        path: its folder; `digits` needs none.
        split: `train` or `test`, the official ones; `folder` may have `valid`.
        download: let torchvision download it into `path`, where it is not there and torchvision
            can.

    Raises:
        UserError: an unknown name, no folder, an unknown layout (the message lists which
            were tried and what each lacks), damaged archives, or too many or too few classes.
    """
    info = get_dataset_info(name)
    if name == "digits":
        return load_digits(split)
    root = _root(name, path, download)
    with ExitStack() as alone:  # no other process unpacks archives into the folder
        if download:
            with suppress(OSError):  # of a folder that is read-only
                alone.enter_context(file_lock(root / ".download.lock"))
        layout, root = _find_layout(name, root, split, download)
        try:
            images = _load(layout, root, split)
        except (RuntimeError, ValueError, KeyError, OSError, EOFError, AssertionError) as error:
            hint = "; get it again with --download into an empty folder" if layout.downloads else ""
            raise UserError(f"{root}: looks like {layout.name}, but cannot be read: "
                            f"{one_line(error)}{hint}") from error
    _check_classes(info, images, root, layout, split)
    return images


def _load(layout: Layout, root: Path, split: str) -> Images:
    """Loads a layout, which is fetched where it is not there yet."""
    if layout.missing(root, split) is None:
        return layout.load(root, split)
    try:
        return layout.load(root, split, download=True)
    except (RuntimeError, OSError) as error:
        raise UserError(f"{root}: {layout.name} could not be downloaded: {one_line(error)}; "
                        "try again, or get it from its authors") from error


def _root(name: str, path: str | os.PathLike | None, download: bool) -> Path:
    if path is None:
        raise UserError(f"{name}: needs its folder; give --data")
    root = Path(path)
    if download:
        root.mkdir(parents=True, exist_ok=True)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --data names the folder of {name}"
                        f"{_download_hint(name)}")
    return root


def _find_layout(name: str, root: Path, split: str, download: bool) -> tuple[Layout, Path]:
    layouts = [layout for layout in LAYOUTS[name] if split in layout.needs]
    tried = []
    for layout in layouts:
        # Also when --data names the folder that the archive unpacks to, not the one above it.
        for base in (root, root.parent):
            unpacked = layout.downloads and layout.needs[split][0].split("/")[0] == root.name
            if base == root or unpacked:
                lacks = layout.missing(base, split)
                if lacks is None:
                    return layout, base
        tried.append(f"{layout.name} (no {lacks})")
    if download and layouts[0].downloads:
        return layouts[0], root
    if download:
        raise UserError(f"{name}: cannot be downloaded by this program; get it from its "
                        "authors and unpack it into --data")
    other = "" if name == "folder" else "; for images of your own, add --dataset folder"
    raise UserError(f"{root}: not a layout of {name} that is known{_download_hint(name)}; tried "
                    f"{'; '.join(tried)}{other}; {what_is_there(root)}")


def _download_hint(name: str) -> str:
    """Returns what to do where a data set is missing that torchvision can fetch, else nothing.

    DEVIATION download: the original's train_cifar.py fetches CIFAR-10 and CIFAR-100 unasked.
    """
    return " (--download fetches it)" if LAYOUTS[name][0].downloads else ""


def _check_classes(info: DatasetInfo, images: Images, root: Path, layout: Layout,
                   split: str) -> None:
    if not len(images):
        raise UserError(f"{root}: {layout.name} without an image for {split}; get it again")
    found = len(class_folders(root / layout.needs[split][0])) if layout.by_folder else None
    if info.n_classes is None:
        return
    if found not in (None, info.n_classes) or images.targets.max() >= info.n_classes:
        found = found or int(images.targets.max()) + 1
        raise UserError(f"{root}: {found} classes, but {info.name} has {info.n_classes}; "
                        "use --dataset folder for other data")


def count_classes(name: str, path: str | os.PathLike | None) -> int:
    """Returns the number of classes: the table's, or for `folder` that of its class folders."""
    return get_dataset_info(name).n_classes or len(class_names(name, path))


def class_names(name: str, path: str | os.PathLike | None) -> list[str]:
    """Returns the names of the classes in the order of their labels; numbers where none are known.

    Raises:
        UserError: see `load_images`.
    """
    if name == "digits":
        return list("0123456789")
    layout, root = _find_layout(name, _root(name, path, False), "train", False)
    found = class_folders(root / layout.needs["train"][0]) if layout.by_folder \
        else layout.classes(root)
    return list(found) or [str(label) for label in range(get_dataset_info(name).n_classes or 0)]


def has_split(name: str, path: str | os.PathLike | None, split: str,
              required: bool = False) -> bool:
    """Returns whether the folder has `train`, `valid` or `test` images of its own; lists none.

    A validation folder without a test folder next to it is the test set.

    Raises:
        UserError: with `required`, where it has not; see `load_images`.
    """
    if name == "digits":
        return split in SPLITS
    try:
        layout, base = _find_layout(name, _root(name, path, False), split, False)
    except UserError:
        if required:
            raise
        return False
    return split != "valid" or layout.missing(base, "test") is None
