"""What the provider promises: the same images from the same seed, decoded once, damage survived."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from data_providers import DATASETS, DataProvider
from data_providers.provider import CALIBRATION_SEED, VALIDATION_SEED
from data_providers.transforms import train_geometry
from tests.data_providers import layouts
from tests.data_providers.conftest import in_processes
from utils.errors import UserError


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """A folder of pictures of different sizes, whose training transform is timm's too."""
    return layouts.folders(tmp_path / "pets", "pets", 37, ("train",), "test").root


def batches_equal(left, right) -> bool:
    pairs = list(zip(left, right, strict=True))
    return all(torch.equal(a, b) for pair in pairs for a, b in
               (zip(*pair, strict=True) if isinstance(pair[0], tuple) else [pair]))


@pytest.mark.parametrize("n_workers", [1, 2])
def test_the_number_of_workers_changes_nothing(pets, n_workers):
    alone = DataProvider("pets", pets, vld_size=20, seed=3, cache_gb=0)
    several = DataProvider("pets", pets, vld_size=20, seed=3, cache_gb=0, n_workers=n_workers)
    loaders = [provider.train_loader(24, 16) for provider in (alone, several)]
    assert len(loaders[0]) == 4
    for _ in range(2):
        assert batches_equal(*loaders)
    assert batches_equal(*(p.calibration_batches(24, 30, 16) for p in (alone, several)))
    assert batches_equal(*(p.eval_batches("valid", 24, 7) for p in (alone, several)))


def test_passes_seeds_and_epochs(pets):
    provider = DataProvider("pets", pets, seed=1)
    loader = provider.train_loader(24, 37)
    first, second = list(loader), list(loader)
    assert not batches_equal(first, second)
    loader.set_epoch(1)
    assert batches_equal(loader, second)
    loader.set_epoch(0)
    assert batches_equal(loader, first)
    assert not batches_equal(first, provider.train_loader(24, 37, seed=2))
    calibrations = [DataProvider("pets", pets, seed=seed).calibration_batches(24)
                    for seed in (1, 1, 2)]
    assert batches_equal(*calibrations[:2]) and not batches_equal(*calibrations[1:])


def test_global_generators_stay_where_they_were(pets):
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    provider = DataProvider("pets", pets, vld_size=10)
    for loader in (provider.train_loader(24, 16), provider.calibration_batches(24),
                   provider.eval_batches("valid", 24)):
        list(loader)
    drawn = torch.rand(1).item(), random.random(), np.random.rand()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    assert drawn == (torch.rand(1).item(), random.random(), np.random.rand())


def test_validation_split_is_once_for_alls(pets):
    whole = DataProvider("pets", pets).images("train").items
    provider = DataProvider("pets", pets, vld_size=20, seed=9)
    order = torch.randperm(74, generator=torch.Generator().manual_seed(VALIDATION_SEED)).tolist()
    assert VALIDATION_SEED == 2147483647 and CALIBRATION_SEED == 937162211
    assert provider.images("valid").items == [whole[i] for i in order[:20]]
    assert provider.images("train").items == [whole[i] for i in order[20:]]
    assert (provider.n_train, provider.n_valid, provider.n_test) == (54, 20, 37)


@pytest.mark.parametrize("vld_size", [0, -1, 74, 10_000])
def test_a_validation_set_larger_than_the_data_is_an_error(pets, vld_size):
    with pytest.raises(UserError, match=f"--vld_size {vld_size}.*74 images"):
        DataProvider("pets", pets, vld_size=vld_size)


@pytest.mark.parametrize(("parts", "held_out"), [
    (("train", "val"), False), (("train", "val", "test"), True), (("train", "test"), False)])
def test_validation_images_are_held_out_where_the_test_images_are_others(tmp_path, parts, held_out):
    for i, part in enumerate(parts):
        layouts.class_folders(tmp_path / part, 2, 3 + i, ".png")
    provider = DataProvider("folder", tmp_path)
    assert provider.holds_out_validation == held_out
    same = provider.images("valid").items == provider.images("test").items
    assert same != held_out


def test_unknown_split(pets):
    with pytest.raises(UserError, match="train, valid, test"):
        DataProvider("pets", pets).eval_batches("val", 24)


def test_calibration_images_are_training_images_transformed_once(pets):
    provider = DataProvider("pets", pets, vld_size=20)
    batches = provider.calibration_batches(24, n_images=30, batch_size=8)
    assert len(batches) == 4 and [len(images) for images in batches] == [8, 8, 8, 6]
    assert batches_equal(batches, batches)
    assert len(torch.cat(list(provider.calibration_batches(24, n_images=5000)))) == 54


def test_balanced_sampling_draws_every_class_equally_often(tmp_path):
    root = tmp_path / "flowers"
    layouts.folders(root, "flowers102", 102, ("train",), "test", n_train=1)
    for i in range(306):  # three quarters of the images are of one class
        layouts.save(root / "train" / "class_000" / f"more{i}.jpg", layouts.picture(i, 9, 9))
    loader = DataProvider("flowers102", root).train_loader(8, 100)
    drawn = torch.cat([labels for _ in range(3) for _, labels in loader])
    assert len(drawn) == 3 * 408 and (drawn == 0).sum() < 50
    plain = DataProvider("pets", layouts.folders(tmp_path / "p", "pets", 37, ("train",), "test")
                         .root).train_loader(8, 37)
    assert torch.cat([labels for _, labels in plain]).bincount().tolist() == [2] * 37


def test_ranks_share_an_epoch(pets):
    provider = DataProvider("pets", pets)
    whole = next(iter(provider.train_loader(24, 74)))
    parts = [list(provider.train_loader(24, 10, rank=rank, world_size=3)) for rank in range(3)]
    assert {len(part) for part in parts} == {3}
    shares = [tuple(map(torch.cat, zip(*part, strict=True))) for part in parts]
    assert {len(images) for images, _ in shares} == {25}
    for rank, (images, labels) in enumerate(shares):
        mine = (torch.arange(25) * 3 + rank) % 74
        assert torch.equal(images, whole[0][mine]) and torch.equal(labels, whole[1][mine])


@pytest.mark.parametrize(("batch_size", "drop_last", "sizes"), [
    (20, False, [20, 20, 20, 14]), (20, True, [20, 20, 20]), (73, False, [73]),
    (100, True, [74]), (37, False, [37, 37])])
def test_last_batches(pets, batch_size, drop_last, sizes):
    loader = DataProvider("pets", pets).train_loader(8, batch_size, drop_last=drop_last)
    assert len(loader) == len(sizes) and [len(images) for images, _ in loader] == sizes


def test_own_training_transform(pets):
    provider = DataProvider("pets", pets)
    loader = provider.train_loader(8, 10, transform=lambda image: image.resize((12, 10)))
    assert next(iter(loader))[0].shape == (10, 3, 10, 12)


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "folder"])
def test_training_transforms(name):
    info = DATASETS[name]
    image = layouts.picture(1, 60, 45)
    geometry = train_geometry(info, 32)
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    made = [np.asarray(geometry(image)) for _ in range(8)]
    assert {pixels.shape for pixels in made} == {(32, 32, 3)}
    assert len({pixels.tobytes() for pixels in made}) == 8
    # The cache's keys hold the transform's description, which must not change between processes.
    assert " at 0x" not in repr(geometry) and repr(geometry) == repr(train_geometry(info, 32))
    assert repr(geometry) != repr(train_geometry(info, 36))


@pytest.mark.parametrize("resolution", [16, 24, 25, 32, 48])
def test_cached_and_uncached_are_equal_to_the_last_bit(pets, resolution):
    cached = DataProvider("pets", pets, vld_size=20)
    plain = DataProvider("pets", pets, vld_size=20, cache_gb=0)
    for split in ("valid", "test"):
        assert batches_equal(cached.eval_batches(split, resolution, 13),
                             plain.eval_batches(split, resolution, 13))
    assert batches_equal(cached.calibration_batches(resolution, 30, 13),
                         plain.calibration_batches(resolution, 30, 13))
    assert batches_equal(cached.train_loader(resolution, 13), plain.train_loader(resolution, 13))


def test_nothing_is_decoded_twice(pets):
    def use(provider, resolution):
        list(provider.eval_batches("valid", resolution))
        list(provider.calibration_batches(resolution, 30))
        return provider.image_count_decoded

    provider = DataProvider("pets", pets, vld_size=20)
    assert use(provider, 16) == 20 + 30
    assert use(provider, 16) == use(provider, 24) == 20 + 30
    assert use(DataProvider("pets", pets, vld_size=20), 24) == 0
    assert use(DataProvider("pets", pets, vld_size=20), 32) == 0
    assert use(DataProvider("pets", pets, vld_size=20, cache_gb=0), 24) == 20 + 30


def test_other_files_are_other_images(pets):
    before = list(DataProvider("pets", pets).eval_batches("test", 16))
    layouts.save(next((pets / "test").rglob("*.jpg")), layouts.picture(99, 40, 40))
    provider = DataProvider("pets", pets)
    assert not batches_equal(before, provider.eval_batches("test", 16))
    assert provider.image_count_decoded == 37


def test_batches_in_use_are_not_evicted(pets, own_cache):
    provider = DataProvider("pets", pets, cache_gb=37 * 3 * 32 * 32 * 2.5e-9)  # two and a half
    held = provider.eval_batches("test", 32)
    for resolution in (30, 31, 32):
        list(provider.eval_batches("test", resolution))
    shapes = {np.load(path).shape[1:2] for path in own_cache.glob("arrays/*.npy")}
    assert {(31,), (32,)} <= shapes and (30,) not in shapes
    assert batches_equal(held, DataProvider("pets", pets, cache_gb=0).eval_batches("test", 32))


def evaluate_in_process(pets, queue):
    provider = DataProvider("pets", pets)
    queue.put((provider.image_count_decoded,
               sum(float(images.double().sum()) for images, _ in provider.eval_batches("test", 16)),
               provider.image_count_decoded))


def test_processes_share_the_cache(pets):
    results = in_processes(4, evaluate_in_process, pets)
    assert len({total for _, total, _ in results}) == 1
    assert sum(decoded for *_, decoded in results) == 37


@pytest.fixture
def thousand(tmp_path):
    """2,000 training and 10 test images of two classes; the first of each class is damaged."""
    root = tmp_path / "thousand"
    path = root / "train" / "a" / "0000.png"
    layouts.save(path, layouts.picture(0, 8, 8))
    whole = path.read_bytes()
    for name in "ab":
        for part, n in (("train", 1000), ("test", 5)):
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                (root / part / name / f"{i:04}.png").write_bytes(whole)
    path.write_bytes(whole[:len(whole) // 2])
    (root / "train" / "b" / "0000.png").write_bytes(b"<html>not an image</html>")
    return root


@pytest.mark.parametrize("cache_gb", [0, 1])
@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_damaged_image_is_named_and_left_out(thousand, capfd, cache_gb, n_workers):
    provider = DataProvider("folder", thousand, vld_size=1900, cache_gb=cache_gb,
                            n_workers=n_workers)
    damaged = {str(thousand / "train" / name / "0000.png") for name in "ab"}
    n_left = [sum(len(labels) for _, labels in provider.eval_batches(split, 8))
              for split in ("valid", "train")]
    assert sum(n_left) == 1998
    assert sum(len(labels) for _, labels in provider.train_loader(8, 50)) == 100
    assert provider.damaged == damaged
    warnings = [line for line in capfd.readouterr().err.splitlines() if "damaged" in line]
    assert len(warnings) == 2 and all(any(name in line for name in damaged) for line in warnings)
    again = DataProvider("folder", thousand, vld_size=1900, cache_gb=cache_gb)
    list(again.eval_batches("valid", 8))
    list(again.eval_batches("train", 8))
    assert again.damaged == damaged  # also where they come from the cache


@pytest.mark.parametrize("cache_gb", [0, 1])
def test_more_damaged_images_than_the_limit_are_an_error(thousand, cache_gb):
    (thousand / "train" / "b" / "0001.png").write_bytes(b"")
    provider = DataProvider("folder", thousand, cache_gb=cache_gb, max_damaged=0.001)
    with pytest.raises(UserError, match=r"more than 0\.1 in 100"):
        list(provider.eval_batches("train", 8))
    with pytest.raises(UserError, match=r"more than 0\.1 in 100"):
        list(provider.train_loader(8, 100))
    for name in ("0001.png", "0002.png"):  # one may always be damaged
        (thousand / "test" / "a" / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"0001.png: 2 of 10 images"):
        list(provider.eval_batches("test", 8))


def test_a_read_only_cache_is_done_without(pets, tmp_path, capfd):
    (tmp_path / "file").write_text("no folder can be made below a file")
    provider = DataProvider("pets", pets, cache_dir=tmp_path / "file" / "cache")
    plain = DataProvider("pets", pets, cache_gb=0)
    assert batches_equal(provider.eval_batches("test", 16), plain.eval_batches("test", 16))
    assert "decoded images are not cached" in capfd.readouterr().err


@pytest.fixture(scope="session")
def real_cifar(shared_data, tmp_path_factory):
    """2,000 training and 500 test images of real CIFAR-10, as class folders."""
    return layouts.unpack_cifar(shared_data / "cifar10_jpeg.tar.xz",
                                tmp_path_factory.mktemp("cifar10"), {"train": 200, "test": 50})


def test_real_cifar_as_folder_and_as_cinic10(real_cifar):
    provider = DataProvider("folder", real_cifar)
    assert (provider.n_classes, provider.n_train, provider.n_test) == (10, 2000, 500)
    official = DATASETS["cifar10"]
    assert np.allclose(provider.info.mean, official.mean, atol=0.01)
    assert np.allclose(provider.info.std, official.std, atol=0.015)
    images, labels = next(iter(provider.eval_batches("test", 32, 500)))
    assert labels.bincount().tolist() == [50] * 10
    assert abs(images.mean()) < 0.1 and abs(images.std() - 1) < 0.15

    as_cinic = real_cifar.parent / "cinic"
    as_cinic.mkdir()
    (as_cinic / "train_and_valid").symlink_to(real_cifar / "train")
    (as_cinic / "test").symlink_to(real_cifar / "test")
    cinic = DataProvider("cinic10", as_cinic, vld_size=400)
    assert (cinic.n_train, cinic.n_valid, cinic.n_test) == (1600, 400, 500)
    image, _ = next(iter(cinic.eval_batches("test", 32, 1)))
    with Image.open(cinic.images("test").items[0]) as file:
        pixels = np.asarray(file.convert("RGB").resize((37, 37), Image.Resampling.BILINEAR))
    cut = pixels[2:34, 2:34].astype(np.float32) / 255  # round((37 - 32) / 2) is 2
    expected = (cut - np.float32(cinic.info.mean)) / np.float32(cinic.info.std)
    assert np.array_equal(image[0].permute(1, 2, 0).numpy(), expected)


def test_a_listing_is_the_same_wherever_the_files_lie_and_another_with_other_files(pets, tmp_path):
    def listing(root):
        return DataProvider("pets", root).images("train").listing(str(root))

    moved = pets.rename(tmp_path / "moved")
    before = listing(moved)
    moved = moved.rename(tmp_path / "again")
    assert listing(moved) == before
    picture = next(path for path in sorted(moved.rglob("*.*g")) if "train" in path.parts)
    picture.with_name("zz" + picture.name).write_bytes(picture.read_bytes())
    assert listing(moved) != before
