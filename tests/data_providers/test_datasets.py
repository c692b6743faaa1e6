"""Every row of the table, in every layout it is known in, read through the real classes."""

import math
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

from data_providers import DATASETS, DataProvider, get_dataset_info
from data_providers.datasets import LAYOUTS as KNOWN
from data_providers.datasets import class_names, load_digits, load_images
from data_providers.images import LabelledDataset
from data_providers.transforms import EVAL_RESIZES, TRAIN_STEPS
from tests.data_providers import layouts
from tests.data_providers.layouts import LAYOUTS, picture, save
from tests.data_providers.references import eval_transform
from utils.errors import UserError

RESOLUTION = 32


def plain_pil(image: Image.Image, name: str, r: int) -> np.ndarray:
    """The two evaluation transforms, in PIL's own words: uint8 (r, r, 3)."""
    if name == "squash":
        return np.asarray(image.resize((r, r), Image.Resampling.BICUBIC))
    short = math.ceil(r / 0.875)
    scale = short / min(image.size)
    size = tuple(short if side == min(image.size) else int(side * scale) for side in image.size)
    left, top = (round((side - r) / 2) for side in size)
    resized = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + r, top + r)))


@pytest.fixture(params=LAYOUTS)
def miniature(request, tmp_path, monkeypatch):
    return LAYOUTS[request.param](tmp_path / "data", monkeypatch)


def test_every_row_has_a_miniature():
    assert {name.split(" ")[0] for name in LAYOUTS} == set(DATASETS)
    assert set(KNOWN) | {"digits"} == set(DATASETS)
    for info in DATASETS.values():
        assert set(info.train_aug) <= set(TRAIN_STEPS) and info.eval_resize in EVAL_RESIZES


def test_reads_every_layout(miniature):
    provider = DataProvider(miniature.name, miniature.root)
    info, n_test = provider.info, len(miniature.test)
    assert provider.n_classes == 1 + max(label for _, label in miniature.test)
    assert (provider.n_train, provider.n_test) == (miniature.n_train, n_test)
    assert provider.n_valid == (300 if miniature.name == "digits" else n_test)

    images, labels = map(torch.cat, zip(*provider.eval_batches("test", RESOLUTION), strict=True))
    assert images.shape == (n_test, 3, RESOLUTION, RESOLUTION)
    assert labels.tolist() == [label for _, label in miniature.test]
    expected = np.stack([plain_pil(image, info.eval_resize, RESOLUTION)
                         for image, _ in miniature.test]).astype(np.float32) / 255
    expected = (expected - np.float32(info.mean)) / np.float32(info.std)
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), expected)

    batch, labels = next(iter(provider.train_loader(RESOLUTION, 4)))
    assert batch.shape == (4, 3, RESOLUTION, RESOLUTION) and batch.dtype == torch.float32
    assert labels.dtype == torch.int64 and 0 <= labels.min() <= labels.max() < info.n_classes
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (info.mean, info.std))
    pixels = batch * std + mean
    assert -1e-3 <= pixels.min() < 0.3 and 0.5 < pixels.max() <= 1.001


@pytest.mark.parametrize("name", ["aircraft", "dtd", "pets", "flowers102", "stl10", "cifar10",
                                  "fashion_mnist"])
def test_the_unpacked_folder_itself_may_be_named(name, tmp_path, monkeypatch):
    miniature = LAYOUTS[name](tmp_path, monkeypatch)
    inner = next(path for path in tmp_path.iterdir() if path.is_dir() and path.name != "cache")
    assert len(load_images(name, inner, "test")) == len(miniature.test)


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_tells_which_layouts_were_tried(name, tmp_path):
    with pytest.raises(UserError) as error:
        DataProvider(name, tmp_path)
    for layout in KNOWN[name]:
        if "valid" not in layout.needs:
            assert layout.name in str(error.value)
    assert str(tmp_path) in str(error.value) and "(no " in str(error.value)


def test_missing_or_absent_folder(tmp_path):
    with pytest.raises(UserError, match="give --data"):
        DataProvider("cifar10")
    with pytest.raises(UserError, match="no such folder"):
        DataProvider("cifar10", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"cifar100.*flowers102"):
        DataProvider("mnist", tmp_path)


@pytest.mark.parametrize(("name", "file"), [
    ("cifar10", "cifar-10-batches-py/data_batch_3"),
    ("fashion_mnist", "FashionMNIST/raw/train-images-idx3-ubyte"),
    ("stl10", "stl10_binary/train_X.bin"),
    ("flowers102", "flowers-102/setid.mat"), ("dtd", "dtd/dtd/labels/val1.txt"),
    ("aircraft", "fgvc-aircraft-2013b/data/images_variant_trainval.txt"),
    ("pets", "oxford-iiit-pet/annotations/trainval.txt")])
def test_damaged_archives_are_named(name, file, tmp_path, monkeypatch):
    LAYOUTS[name](tmp_path, monkeypatch)
    (tmp_path / file).write_bytes(b"no more\nthan a word")
    with pytest.raises(UserError, match=f"{tmp_path}.*cannot be read.*--download"):
        load_images(name, tmp_path, "train")


def test_class_folders_must_agree(tmp_path):
    layouts.folders(tmp_path, "folder", 3, ("train",), "val")
    shutil.rmtree(tmp_path / "val" / "class_001")
    with pytest.raises(UserError, match="class_001"):
        load_images("folder", tmp_path, "train")
    with pytest.raises(UserError, match="3 classes, but cifar10 has 10"):
        shutil.rmtree(tmp_path / "val")
        load_images("cifar10", tmp_path.joinpath("."), "train")


def test_empty_class_folders(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "test" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="without an image"):
        load_images("folder", tmp_path, "train")
    with pytest.raises(UserError, match="class folder"):
        load_images("folder", layouts.save(tmp_path / "b/train/x.png", layouts.picture(1)) and
                    tmp_path / "b", "train")


@pytest.mark.parametrize("folder", ["", "nowhere"])
@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_a_missing_data_set_names_download_where_it_would_help(name, folder, tmp_path):
    with pytest.raises(UserError) as error:
        load_images(name, tmp_path / folder, "train")
    fetched = name not in ("imagenet", "cinic10", "folder")
    assert ("--download fetches it" in str(error.value)) is fetched


@pytest.mark.parametrize("name", ["imagenet", "cinic10", "folder"])
def test_what_torchvision_cannot_download_is_said(name, tmp_path):
    with pytest.raises(UserError, match="cannot be downloaded"):
        load_images(name, tmp_path, "train", download=True)


def sorted_folder(root, *parts, names=("cat", "dog"), n=3):
    for part in parts:
        for i, name in enumerate(names):
            for j in range(n):
                save(root / part / name / f"{j}.png", picture(10 * i + j))
    return root


def flat_folder(root, part, n=4):
    for i in range(n):
        save(root / part / f"cat.{i}.png", picture(i))


@pytest.mark.parametrize(("sorted_parts", "flat", "match"), [
    (("train",), "val", r"val/ holds 4 files and no class folders: move each file into a folder "
                        r"with the name of its class, as in train/"),
    ((), "train", r"train/ holds 4 files and no class folders: .*train/cat/cat\.0\.jpg"),
    (("train", "val"), "test", r"test/ holds 4 files and no class folders: images without labels "
                               r"cannot be scored; .*--predict"),
    (("train",), None, r"a part of the images belongs into val/"),
    (("",), None, r"it holds 2 folders \(cat, dog\): images belong into train/<class>/")])
def test_what_is_there_and_what_to_do_is_said(tmp_path, sorted_parts, flat, match):
    sorted_folder(tmp_path, *sorted_parts)
    if flat:
        flat_folder(tmp_path, flat)
    with pytest.raises(UserError, match=match):
        DataProvider("folder", tmp_path)
    if "train" not in sorted_parts:
        with pytest.raises(UserError, match=match):
            get_dataset_info("folder").check_n_classes(None, str(tmp_path))


def test_names_with_accents_are_equal_in_either_form(tmp_path):
    names = ["caf\u00e9", "cafz", "z\u00fcrich"]
    sorted_folder(tmp_path, "train", names=[unicodedata.normalize("NFD", n) for n in names])
    sorted_folder(tmp_path, "val", names=names)
    test = load_images("folder", tmp_path, "test")
    labels = {name: label for label, name in enumerate(class_names("folder", tmp_path))}
    for i in range(len(test)):
        name = unicodedata.normalize("NFD", Path(test.name(i)).parent.name)
        assert labels[name] == test.targets[i]
    assert len(test) == 9
    sorted_folder(tmp_path, "train", names=names[:1])
    with pytest.raises(UserError, match=r"two class folders have the name 'caf..?'"):
        load_images("folder", tmp_path, "train")


def test_a_folder_that_is_not_imagenets_is_answered_with_folder(tmp_path):
    sorted_folder(tmp_path, "train", "test")
    with pytest.raises(UserError, match=r"not a layout of imagenet .*add --dataset folder"):
        load_images("imagenet", tmp_path, "test")
    sorted_folder(tmp_path, "val")
    with pytest.raises(UserError, match="2 classes, but imagenet has 1000; use --dataset folder"):
        load_images("imagenet", tmp_path, "test")


def test_a_contradicting_class_count_is_an_error():
    info = get_dataset_info("pets")
    assert info.check_n_classes(None) == info.check_n_classes(37) == 37
    with pytest.raises(UserError, match=r"--n_classes 1000.*pets has 37"):
        info.check_n_classes(1000)
    assert get_dataset_info("folder").check_n_classes(5) == 5
    with pytest.raises(UserError, match="--n_classes"):
        get_dataset_info("folder").check_n_classes(None)


def test_digits_split_is_stratified_and_fixed():
    train, test = load_digits("train"), load_digits("test")
    assert (len(train), len(test)) == (1197, 600)
    assert np.bincount(test.targets).min() >= 58 and np.bincount(train.targets).min() >= 116
    assert train.fingerprint == load_digits("train").fingerprint != test.fingerprint
    pixels = train.items / 255
    assert np.allclose(pixels.mean(axis=(0, 1, 2)), DATASETS["digits"].mean, atol=5e-3)
    assert np.allclose(pixels.std(axis=(0, 1, 2)), DATASETS["digits"].std, atol=5e-3)


def test_folder_measures_its_pixels_once(tmp_path, own_cache, monkeypatch):
    layouts.folders(tmp_path / "data", "folder", 3, ("train",), "val", suffix=".png")
    info = DataProvider("folder", tmp_path / "data").info
    pixels = [np.asarray(Image.open(path)).reshape(-1, 3) / 255
              for path in (tmp_path / "data/train").rglob("*.png")]
    mean = np.mean([p.mean(axis=0) for p in pixels], axis=0)
    std = np.sqrt(np.mean([(p**2).mean(axis=0) for p in pixels], axis=0) - mean**2)
    assert info.n_classes == 3
    assert np.allclose(info.mean, mean, atol=1e-6) and np.allclose(info.std, std, atol=1e-6)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"train", "val"}
    monkeypatch.setattr("data_providers.provider.measured_statistics", None)
    assert DataProvider("folder", tmp_path / "data").info == info
    given = DataProvider("folder", tmp_path / "data", mean=(0.1,) * 3, std=(0.2,) * 3).info
    assert given.mean == (0.1,) * 3 and given.std == (0.2,) * 3


def test_folder_with_a_validation_and_a_test_folder(tmp_path):
    for part, n_images in (("train", 3), ("val", 2), ("test", 1)):
        layouts.class_folders(tmp_path / part, 2, n_images)
    provider = DataProvider("folder", tmp_path)
    assert (provider.n_train, provider.n_valid, provider.n_test) == (6, 4, 2)


def test_datasets_for_other_loops(tmp_path, monkeypatch):
    miniature = layouts.pets(tmp_path, monkeypatch)
    info = get_dataset_info("pets")
    images = load_images("pets", tmp_path, "test")
    dataset = LabelledDataset(images, eval_transform(info, RESOLUTION))
    image, label = dataset[5]
    provided = next(iter(DataProvider("pets", tmp_path).eval_batches("test", RESOLUTION)))
    assert len(dataset) == 37 and label == 5 and torch.equal(image, provided[0][5])
    assert np.array_equal(LabelledDataset(images)[3][0], miniature.test[3][0])


def test_the_evaluation_transform_can_be_chosen(tmp_path, monkeypatch):
    miniature = layouts.dtd(tmp_path, monkeypatch)
    assert DataProvider("dtd", tmp_path).info.eval_resize == "squash"
    provider = DataProvider("dtd", tmp_path, transform="crop")
    assert provider.info.eval_resize == "crop"
    image = next(iter(provider.eval_batches("test", RESOLUTION)))[0][0]
    pixels = image.permute(1, 2, 0).numpy() * np.float32(provider.info.std) + provider.info.mean
    assert np.allclose(pixels * 255, plain_pil(miniature.test[0][0], "crop", RESOLUTION), atol=0.01)
    with pytest.raises(UserError, match="crop, squash"):
        DataProvider("dtd", tmp_path, transform="stretch")


def test_augmentation_interpolates_and_fills_as_the_original():
    flowers, aircraft = get_dataset_info("flowers102"), get_dataset_info("aircraft")
    affine = TRAIN_STEPS["affine"](flowers, 224)
    assert (affine.interpolation, affine.fill) == (InterpolationMode.BILINEAR, 0)
    steps = TRAIN_STEPS["rand-m9-mstd0.5"](aircraft, 224).ops
    moving = [step.kwargs["resample"] for step in steps if "resample" in step.kwargs]
    assert moving and set(moving) == {Image.Resampling.BICUBIC}
    assert {step.kwargs["fillcolor"] for step in steps} == {(125, 132, 137)}


@pytest.mark.parametrize(("name", "first"), [
    ("digits", "0"), ("cifar10", "class 0"), ("stl10", None),
    ("fashion_mnist", "T-shirt/top"), ("aircraft", "700 Series 0"),
    ("aircraft in data/", "700 Series 0"), ("dtd", "texture00"), ("pets", None),
    ("flowers102", None), ("folder with val", "class_000"), ("dtd folders", "class_000")])
def test_classes_have_names_in_the_order_of_their_labels(name, first, tmp_path, monkeypatch):
    miniature = LAYOUTS[name](tmp_path, monkeypatch)
    provider = DataProvider(miniature.name, miniature.root)
    facts = provider.facts()
    assert len(facts["class_names"]) == len(set(facts["class_names"])) == provider.n_classes
    assert first in (None, facts["class_names"][0])
    assert (facts["transform"], tuple(facts["mean"])) == (provider.info.eval_resize,
                                                          provider.info.mean)
