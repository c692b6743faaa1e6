"""Every data set in miniature, file for file as its archive unpacks, with what it must read as."""

import hashlib
import io
import pickle
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image
from torchvision import datasets as tv

from data_providers import datasets


@dataclass
class Miniature:
    """A data set on disk.

    Attributes:
        name: its row in the table.
        root: its folder.
        n_train: images of the training set.
        test: (image, label) of the test set, in its official order.
    """

    name: str
    root: Path
    n_train: int
    test: list[tuple[Image.Image, int]]


def picture(seed: int, width: int = 23, height: int = 17) -> Image.Image:
    """A smooth random RGB picture, other for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(path: Path, image: Image.Image) -> Image.Image:
    """Writes an image in the format of its suffix; returns what a decoder makes of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    with Image.open(path) as again:
        return again.convert("RGB")


def class_folders(root: Path, n_classes: int, n_images: int, suffix: str = ".jpg",
                  offset: int = 0) -> list[tuple[Image.Image, int]]:
    """Makes `class_000/0.jpg` ... below root."""
    return [(save(root / f"class_{label:03}" / f"{i}{suffix}",
                  picture(offset + 31 * label + i, 20 + label % 7, 18 + i)), label)
            for label in range(n_classes) for i in range(n_images)]


def folders(root: Path, name: str, n_classes: int, train: tuple[str, ...], test: str,
            n_train: int = 2, suffix: str = ".jpg") -> Miniature:
    """The layout of class folders."""
    for number, part in enumerate(train):
        class_folders(root / part, n_classes, n_train, suffix, 10_000 * (number + 1))
    return Miniature(name, root, n_train * n_classes * len(train),
                     class_folders(root / test, n_classes, 1, suffix))


def md5(path: Path) -> str:
    """Checksum in hexadecimal."""
    return hashlib.md5(path.read_bytes()).hexdigest()


def cifar(root: Path, monkeypatch, kind: type, n_classes: int, train: list[str], test: str,
          meta: str, label_key: str, names_key: str) -> Miniature:
    """The pickles of CIFAR's Python version: rows of 3,072 bytes, channel by channel."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    images, n = {}, 2 * n_classes
    for number, name in enumerate([*train, test]):
        pixels = np.random.default_rng(number).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        labels = [(i + number) % n_classes for i in range(n)]
        content = {"data": pixels.reshape(n, -1), label_key: labels, "batch_label": name,
                   "filenames": [f"{i}.png" for i in range(n)]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        images[name] = [(Image.fromarray(p.transpose(1, 2, 0).copy()), label)
                        for p, label in zip(pixels, labels, strict=True)]
    names = {names_key: [f"class {i}" for i in range(n_classes)]}
    (folder / meta).write_bytes(pickle.dumps(names, protocol=2))
    monkeypatch.setattr(kind, "train_list", [[n, md5(folder / n)] for n in train])
    monkeypatch.setattr(kind, "test_list", [[test, md5(folder / test)]])
    monkeypatch.setattr(kind, "meta", {"filename": meta, "key": names_key,
                                       "md5": md5(folder / meta)})
    return Miniature(kind.__name__.lower(), root, n * len(train), images[test])


def cifar10(root: Path, monkeypatch) -> Miniature:
    """CIFAR-10: five training batches."""
    return cifar(root, monkeypatch, tv.CIFAR10, 10, [f"data_batch_{i}" for i in range(1, 6)],
                 "test_batch", "batches.meta", "labels", "label_names")


def cifar100(root: Path, monkeypatch) -> Miniature:
    """CIFAR-100: fine labels."""
    return cifar(root, monkeypatch, tv.CIFAR100, 100, ["train"], "test", "meta", "fine_labels",
                 "fine_label_names")


def fashion_mnist(root: Path, monkeypatch) -> Miniature:
    """Fashion-MNIST: IDX files, a magic number and the sizes before grey bytes."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    labels, pixels = np.arange(20, dtype=np.uint8) % 10, np.empty(0)
    for number, part in enumerate(("train", "t10k")):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 28, 28), dtype=np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", pixels),
                            (f"{part}-labels-idx1-ubyte", labels)):
            header = np.array([0x800 + array.ndim, *array.shape], ">i4")
            (folder / name).write_bytes(header.tobytes() + array.tobytes())
    return Miniature("fashion_mnist", root, 20, [
        (Image.fromarray(grey).convert("RGB"), int(label))
        for grey, label in zip(pixels, labels, strict=True)])


def stl10(root: Path, monkeypatch) -> Miniature:
    """STL-10's binaries: column by column, labels from 1; no unlabelled images."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    test = []
    for number, part in enumerate(("train", "test")):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 96, 96, 3), dtype=np.uint8)
        labels = np.arange(12) % 10
        (folder / f"{part}_X.bin").write_bytes(pixels.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{part}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
        test = [(Image.fromarray(p), int(label)) for p, label in zip(pixels, labels, strict=True)]
        monkeypatch.setattr(datasets.STL10, f"{part}_list", [
            [f"{part}_{kind}.bin", md5(folder / f"{part}_{kind}.bin")] for kind in "Xy"])
    return Miniature("stl10", root, 12, test)


def aircraft(root: Path, monkeypatch) -> Miniature:
    """FGVC-Aircraft: text files, variants with spaces in their names."""
    data = root / "fgvc-aircraft-2013b" / "data"
    data.mkdir(parents=True)
    variants = [f"{700 + i} Series {i % 3}" for i in range(100)]
    (data / "variants.txt").write_text("".join(f"{v}\n" for v in variants))
    test = []
    for part, first in (("trainval", 0), ("test", 1000)):
        test = [(save(data / "images" / f"{first + i:07}.jpg", picture(first + i)), i)
                for i in range(100)]
        (data / f"images_variant_{part}.txt").write_text(
            "".join(f"{first + i:07} {variants[i]}\n" for i in range(100)))
    return Miniature("aircraft", root, 100, test)


def aircraft_original(root: Path, monkeypatch) -> Miniature:
    """The same in the folder that the original names: ROOT/data/images."""
    miniature = aircraft(root / "unpacked", monkeypatch)
    (root / "unpacked" / "fgvc-aircraft-2013b" / "data").rename(root / "data")
    return replace(miniature, root=root)


def dtd(root: Path, monkeypatch) -> Miniature:
    """DTD: ten partitions of three lists; the first is the one to read."""
    data = root / "dtd" / "dtd"
    (data / "labels").mkdir(parents=True)
    names = [f"texture{i:02}" for i in range(47)]
    test = []
    for number, part in enumerate(("train", "val", "test")):
        files = [f"{name}/{name}_{number:04}.jpg" for name in names]
        test = [(save(data / "images" / file, picture(100 * number + i, 29, 19)), i)
                for i, file in enumerate(files)]
        (data / "labels" / f"{part}1.txt").write_text("".join(f"{f}\n" for f in files))
        (data / "labels" / f"{part}2.txt").write_text(f"{files[0]}\n")
    return Miniature("dtd", root, 94, test)


def pets(root: Path, monkeypatch) -> Miniature:
    """Oxford-IIIT Pet: lists of (image, class from 1, species, breed); one PNG-like odd mode."""
    data = root / "oxford-iiit-pet"
    (data / "annotations").mkdir(parents=True)
    test = []
    for number, part in enumerate(("trainval", "test")):
        stems = [f"breed_{i:02}_{number}{i}" for i in range(37)]
        test = [(save(data / "images" / f"{stem}.jpg",
                      picture(50 * number + i).convert("L" if i == 3 else "RGB")), i)
                for i, stem in enumerate(stems)]
        (data / "annotations" / f"{part}.txt").write_text(
            "".join(f"{stem} {i + 1} {i % 2 + 1} 1\n" for i, stem in enumerate(stems)))
    return Miniature("pets", root, 37, test)


def flowers102(root: Path, monkeypatch) -> Miniature:
    """Oxford Flowers: MATLAB files with labels from 1 and three lists of image numbers."""
    data = root / "flowers-102"
    numbers = np.arange(1, 307)
    labels = (numbers - 1) % 102
    images = [save(data / "jpg" / f"image_{n:05}.jpg", picture(int(n))) for n in numbers]
    scipy.io.savemat(data / "imagelabels.mat", {"labels": labels[None] + 1})
    lists = {"trnid": numbers[:102], "valid": numbers[102:204], "tstid": numbers[204:]}
    scipy.io.savemat(data / "setid.mat", {key: value[None] for key, value in lists.items()})
    monkeypatch.setattr(tv.Flowers102, "_file_dict", {
        "image": ("102flowers.tgz", ""),
        "label": ("imagelabels.mat", md5(data / "imagelabels.mat")),
        "setid": ("setid.mat", md5(data / "setid.mat"))})
    return Miniature("flowers102", root, 204,
                     [(images[n - 1], int(labels[n - 1])) for n in lists["tstid"]])


def imagenet(root: Path, monkeypatch) -> Miniature:
    """ImageNet: 1,000 WordNet folders; a few pictures serve all of them."""
    encoded = []
    for seed in range(5):
        buffer = io.BytesIO()
        picture(seed).save(buffer, "JPEG")
        encoded.append((buffer.getvalue(), Image.open(buffer).convert("RGB")))
    for part in ("train", "val"):
        for label in range(1000):
            folder = root / part / f"n{10_000_000 + label}"
            folder.mkdir(parents=True)
            (folder / f"{part}_{label}.JPEG").write_bytes(encoded[label % 5][0])
    return Miniature("imagenet", root, 1000, [(encoded[i % 5][1], i) for i in range(1000)])


def digits(root: Path, monkeypatch) -> Miniature:
    """The data set inside scikit-learn: nothing on disk."""
    images = datasets.load_digits("test")
    return Miniature("digits", root, 897, [(images.read(i), int(images.targets[i]))
                                           for i in range(len(images))])


def _folders(name: str, n_classes: int, train: tuple[str, ...] = ("train",), test: str = "test",
             **options) -> Callable:
    return lambda root, monkeypatch: folders(root, name, n_classes, train, test, **options)


LAYOUTS: dict[str, Callable] = {
    "imagenet": imagenet,
    "cifar10": cifar10,
    "cifar10 folders": _folders("cifar10", 10),
    "cifar100": cifar100,
    "cifar100 folders": _folders("cifar100", 100),
    "cinic10": _folders("cinic10", 10, ("train_and_valid",), suffix=".png"),
    "cinic10 as downloaded": _folders("cinic10", 10, ("train", "valid"), suffix=".png"),
    "fashion_mnist": fashion_mnist,
    "fashion_mnist folders": _folders("fashion_mnist", 10),
    "stl10": stl10,
    "stl10 folders": _folders("stl10", 10),
    "aircraft": aircraft,
    "aircraft in data/": aircraft_original,
    "aircraft folders": _folders("aircraft", 100),
    "dtd": dtd,
    "dtd folders": _folders("dtd", 47, test="valid"),
    "pets": pets,
    "pets folders": _folders("pets", 37),
    "flowers102": flowers102,
    "flowers102 folders": _folders("flowers102", 102),
    "digits": digits,
    "folder with test": _folders("folder", 3),
    "folder with val": _folders("folder", 4, test="val", suffix=".png"),
    "folder with validation": _folders("folder", 3, test="validation"),
    "folder with valid": _folders("folder", 5, test="valid"),
}


def unpack_cifar(archive: Path, folder: Path, n_images: dict[str, int]) -> Path:
    """Unpacks the first `n_images` of each class of CIFAR-10's `train` and `test` folders."""
    taken: Counter = Counter()
    with tarfile.open(archive) as tar:
        for member in tar:
            part = Path(member.name).parent
            if member.isfile() and taken[part] < n_images[part.parent.name]:
                taken[part] += 1
                tar.extract(member, folder, filter="data")
    return folder / next(iter(taken)).parent.parent
