"""From files to RGB: every mode of Pillow, and what must not be decoded."""

import io
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from data_providers import DataProvider
from data_providers.datasets import load_images
from data_providers.images import FileImages
from data_providers.pictures import (
    DAMAGED,
    FORMATS,
    MAX_PIXELS,
    picture_size,
    read_picture,
    to_rgb,
)
from tests.conftest import ROOT
from utils.errors import UserError

SIZE = 32
GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def colours() -> Image.Image:
    """A smooth picture with every brightness and some colour."""
    x, y = np.meshgrid(np.linspace(0, 255, SIZE), np.linspace(0, 255, SIZE))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))


def as_mode(mode: str) -> tuple[Image.Image, np.ndarray]:
    """Returns a picture in a mode of Pillow, and the RGB pixels that it shows."""
    base = colours()
    grey = np.asarray(base.convert("L"))
    if mode == "1":
        image = base.convert("1")
        return image, np.repeat(np.asarray(image.convert("L"))[..., None], 3, 2)
    if mode in GREY_MODES:
        shown = np.repeat(grey[..., None], 3, 2)
        if mode in ("L", "LA", "La"):
            image = base.convert("L").convert("LA")
            return (image.convert("La") if mode == "La" else image.convert(mode)), shown
        if mode == "F":
            return Image.fromarray(grey.astype(np.float32)), shown
        wide = grey.astype(np.uint16) * 257
        if mode == "I":
            return Image.fromarray(wide.astype(np.int32)), shown
        raw = wide.astype(">u2" if mode.endswith("B") else "<u2").tobytes()
        return Image.frombytes(mode, base.size, raw), shown
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(base, *profiles, outputMode="LAB"), np.asarray(base)
    if mode in ("P", "PA"):
        image = base.quantize(256)
        return image.convert("PA") if mode == "PA" else image, np.asarray(base)
    if mode == "RGBa":
        return base.convert("RGBA").convert("RGBa"), np.asarray(base)
    return base.convert(mode), np.asarray(base)


@pytest.mark.parametrize("mode", Image.MODES)
def test_every_mode_shows_what_it_showed(mode):
    """The contract of `to_rgb`; a mode that a new Pillow adds joins by itself."""
    image, shown = as_mode(mode)
    assert image.mode == mode
    pixels = np.asarray(to_rgb(image)).astype(int)
    assert pixels.shape == (SIZE, SIZE, 3)
    tolerance = 16 if mode in ("P", "PA", "LAB", "HSV", "YCbCr") else 2
    assert np.abs(pixels - shown).mean() <= tolerance / 2
    assert abs(pixels.mean() - shown.mean()) <= 2


@pytest.mark.parametrize(("suffix", "mode"), [
    ("png", "I;16"), ("tif", "I;16"), ("png", "L"), ("png", "P"), ("png", "1"), ("png", "LA"),
    ("jpg", "L"), ("jpg", "CMYK"), ("tif", "CMYK"), ("tif", "LAB"), ("tif", "F"), ("webp", "RGB"),
    ("bmp", "RGB"), ("gif", "P"), ("ppm", "RGB"), ("pgm", "L"), ("tif", "I;16B")])
def test_files_of_every_format_are_read_rightly(tmp_path, suffix, mode):
    image, shown = as_mode(mode)
    path = tmp_path / f"picture.{suffix}"
    image.save(path, **({"quality": 95} if suffix in ("jpg", "webp") else {}))
    pixels = np.asarray(read_picture(path)).astype(int)
    assert np.abs(pixels - shown).mean() <= 8
    assert picture_size(path) == (SIZE, SIZE)


def test_a_grey_picture_of_16_bits_keeps_its_mean(tmp_path):
    """Pillow's own convert cuts off at 255: nearly all of it becomes white."""
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.asarray(read_picture(tmp_path / "a.png")).mean() == pytest.approx(127.5, abs=1)


def test_a_grey_picture_of_12_bits_in_16_keeps_its_levels(tmp_path):
    code = ("import sys, numpy as np; from data_providers.pictures import read_picture; "
            "pixels = [np.asarray(read_picture(sys.argv[1])) for _ in range(2)][0]; "
            "print(len(np.unique(pixels)), pixels.min(), pixels.max())")
    values = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.png"], cwd=ROOT, text=True,
                          capture_output=True, check=True)
    assert done.stdout.split() == ["256", "0", "255"]
    assert done.stderr.count("above 4095 are read as pictures of 12 bits") == 1


def test_floats_of_both_ranges_are_read(tmp_path):
    values = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    for scale in (1, 255):
        Image.fromarray(values * scale).save(tmp_path / "a.tif")
        assert np.asarray(read_picture(tmp_path / "a.tif")).mean() == pytest.approx(127.5, abs=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_transparent_pixels_show_white(tmp_path, mode):
    """Whatever colour is hidden in them."""
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 4, 8))
    options = {}
    if mode == "P":
        image, options = Image.new("P", (8, 8), 1), {"transparency": 1}
        image.putpalette([0, 0, 255, 200, 0, 0])
        image.paste(0, (0, 0, 4, 8))
    elif mode in ("L", "RGB"):
        hidden = (200, 0, 0) if mode == "RGB" else 200
        image, options = Image.new(mode, (8, 8), hidden), {"transparency": hidden}
        image.paste((0, 0, 255) if mode == "RGB" else 29, (0, 0, 4, 8))
    elif mode == "LA":
        image = image.convert("LA")
    image.save(tmp_path / "a.png", **options)
    pixels = np.asarray(read_picture(tmp_path / "a.png"))
    assert (pixels[:, 4:] == 255).all() and (pixels[:, :4] < 255).any(axis=2).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_picture_is_turned_as_its_exif_says(tmp_path, suffix, orientation):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :12] = 255  # the upper left quarter
    turns = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
             5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1),
             7: lambda a: np.rot90(a.transpose(1, 0, 2), 2), 8: lambda a: np.rot90(a, 3)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(turns[orientation](upright))
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif, **options)
    pixels = np.asarray(read_picture(tmp_path / f"a.{suffix}")).astype(int)
    assert pixels.shape == upright.shape and np.abs(pixels - upright).mean() < 8


def test_an_ordinary_photograph_is_read_as_pillow_reads_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert (np.asarray(read_picture(tmp_path / "a.jpg")) == np.asarray(image)).all()


# ------------------------------------------------------------------------- what is not decoded


def encoded(kind: str) -> bytes:
    """A picture in a format that photographs do not come in."""
    if kind == "EPS":
        return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    out = io.BytesIO()
    colours().save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["EPS", "DDS", "BLP", "JPEG2000", "PDF", "ICNS", "PCX", "TGA"])
def test_other_formats_are_refused_whatever_their_name(tmp_path, monkeypatch, kind):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_args, **_options: pytest.fail(
        "another program would have been started"))
    try:
        content = encoded(kind)
    except (KeyError, OSError, ValueError):
        content = {"BLP": b"BLP2" + bytes(1200)}[kind]
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (read_picture, picture_size):
        with pytest.raises(DAMAGED, match=f"none of JPEG, PNG, .*{FORMATS[-1]}"):
            read(tmp_path / "a.jpg")


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of black pixels, made row by row."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(
            ">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + width)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows)
            + chunk(b"IEND", b""))


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (1, 200_000), (30_000, 200)])
def test_a_small_file_with_a_huge_picture_is_not_decoded(tmp_path, width, height):
    content = png_of_size(width, height)
    assert len(content) < 100_000
    (tmp_path / "a.png").write_bytes(content)
    begin = time.process_time()
    with pytest.raises(ValueError, match="too many, or too narrow"):
        read_picture(tmp_path / "a.png")
    assert time.process_time() - begin < 0.1
    assert FileImages([tmp_path / "a.png"], [0]).size(0) == (0, 0)
    assert width * height > MAX_PIXELS or max(width, height) > 100 * min(width, height)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_wide_values_are_converted_a_few_rows_at_a_time(mode):
    image = Image.new(mode, (1000, 1000), 1)
    tracemalloc.start()
    to_rgb(image)
    assert tracemalloc.get_traced_memory()[1] < 10 * 10**6, "bytes of numpy and of Python"
    tracemalloc.stop()


def test_a_pipe_among_the_pictures_is_a_damaged_one(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(OSError, match="pipe"):
        read_picture(tmp_path / "a.jpg")


# --------------------------------------------------------------------------------- folders of them


@pytest.fixture
def folder(tmp_path):
    """Two classes, three pictures each, for training and test."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def test_links_that_lead_in_circles_multiply_nothing(folder):
    (folder / "train/cat/self").symlink_to(".")
    (folder / "train/cat/up").symlink_to("..")
    (folder / "train/dog/more").mkdir()
    (folder / "train/dog/more/back").symlink_to("..")
    images = load_images("folder", folder, "train")
    assert len(images) == 6 and images.targets.tolist() == [0] * 3 + [1] * 3


def test_pictures_in_linked_folders_are_found(folder):
    (folder / "elsewhere").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "elsewhere" / "x.png")
    (folder / "train/cat/linked").symlink_to(folder / "elsewhere")
    assert len(load_images("folder", folder, "train")) == 7


def test_the_order_is_that_of_torchvision(folder):
    from torchvision.datasets import ImageFolder

    for name in ("a/0.png", "a0.png", "B.png", "a-b/1.JPG"):
        path = folder / "train/cat" / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(path, "PNG")
    (folder / "train/cat/z.txt").write_text("no picture")
    expected = ImageFolder(folder / "train").samples
    images = load_images("folder", folder, "train")
    assert list(zip(images.items, images.targets.tolist(), strict=True)) == expected


def test_a_class_without_an_image_is_an_error_to_train_on_and_a_warning_elsewhere(folder, capsys):
    for split in ("train", "val"):
        (folder / split / "bird").mkdir()
        (folder / split / ".thumbnails").mkdir()
    images = load_images("folder", folder, "test")
    assert images.targets.tolist() == [1] * 3 + [2] * 3
    warning = capsys.readouterr().err
    assert "1 of 3 class folders of test hold no image, the first one 'bird'" in warning
    with pytest.raises(UserError, match=r"3 class folders of train hold no image.*'bird'; add"):
        load_images("folder", folder, "train")


def test_hidden_files_and_folders_are_no_data(folder, capsys):
    """What notebooks, macOS and image viewers leave behind, copies of pictures among it."""
    for split in ("train", "val"):
        for name in (".ipynb_checkpoints/0-checkpoint.png", "._0.png", ".DS_Store"):
            path = folder / split / "cat" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes((folder / split / "cat" / "0.png").read_bytes())
        (folder / split / ".cache").mkdir()
    provider = DataProvider("folder", folder, vld_size=2)
    assert (provider.n_classes, provider.n_train, provider.n_valid, provider.n_test) == (2, 4, 2, 6)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("name", "kind"), [
    ("x.jfif", "JPEG"), ("x.gif", "GIF"), ("x.avif", "AVIF"), ("x.JPE", "JPEG"), ("x", "PNG"),
    ("x.download", "WEBP")])
def test_a_picture_is_one_by_its_content(folder, capsys, name, kind):
    if kind not in FORMATS:
        pytest.skip(f"this Pillow reads no {kind}")
    colours().save(folder / "train/cat" / name, kind)
    images = load_images("folder", folder, "train")
    assert len(images) == 7 and capsys.readouterr().err == ""
    (index,) = (i for i, path in enumerate(images.items) if path.endswith(f"/{name}"))
    assert images.read(index).size == (SIZE, SIZE)


def test_files_that_are_not_read_are_counted_and_named_once(folder, capsys):
    (folder / "train/cat/b.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (folder / "train/cat/notes.txt").write_text("a table of labels")
    os.mkfifo(folder / "train/dog/pipe")
    assert len(load_images("folder", folder, "train")) == 6
    (warning,) = capsys.readouterr().err.splitlines()
    assert f"3 of 9 files are not read, the first one {folder}/train/cat/b.heic: not in" in warning
    assert "JPEG" in warning and "convert or remove" in warning


def test_one_class_and_classes_without_a_training_image_are_warned_about(folder, capsys):
    for name in ("1.png", "2.png"):
        (folder / "train/cat" / name).unlink()
    provider = DataProvider("folder", folder, vld_size=3)
    expected = set(provider.images("valid").targets) - set(provider.images("train").targets)
    warning = capsys.readouterr().err
    assert expected == {0}
    assert "--vld_size 3 leaves classes without a training image: 1, the first one 'cat'" in warning
    for split in ("train", "val"):
        shutil.rmtree(folder / split / "dog")
    assert DataProvider("folder", folder).n_classes == 1
    assert "only one class, 'cat'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ipynb_inside", "jfif", "macos_dot_underscore"])
def test_folders_of_public_bug_reports(shared_data, tmp_path, capsys, name):
    archive = shared_data / "wild" / "datasets" / f"{name}.tgz"
    if not archive.exists():
        pytest.skip(f"needs {archive.name} of the real data")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    provider = DataProvider("folder", tmp_path / name, vld_size=20)
    assert (provider.n_classes, provider.n_train, provider.n_valid, provider.n_test) == (
        4, 100, 20, 40)
    batches = provider.eval_batches("train", 32, 100)
    assert sum(len(labels) for _, labels in batches) == 100
    assert "damaged" not in capsys.readouterr().err


def test_folders_of_another_number_of_classes_are_refused_before_they_are_read(folder):
    from data_providers import get_dataset_info

    with pytest.raises(UserError, match="2 class folders, but cifar100 has 100"):
        get_dataset_info("cifar100").check_n_classes(None, str(folder))


def test_pixels_changed_with_the_old_times_are_seen(folder, own_cache):
    """Same path, size and modification time; the cache must not answer with the old pixels."""
    path = folder / "train/cat/0.png"
    path.write_bytes(bmp(0))
    first = [batch[0].clone() for batch in DataProvider("folder", folder).eval_batches("train", 8)]
    before = path.stat()
    path.write_bytes(bmp(255))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    second = [batch[0].clone() for batch in DataProvider(
        "folder", folder, mean=(0.5,) * 3, std=(0.5,) * 3).eval_batches("train", 8)]
    assert not (first[0][0] == second[0][0]).all()
    assert second[0][0].min() > 0.9


def bmp(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (value,) * 3).save(out, "BMP")
    return out.getvalue()


def test_one_damaged_picture_of_many_stops_nothing(folder, capsys):
    for i in range(200):
        Image.new("RGB", (8, 8)).save(folder / "train/cat" / f"more{i}.png")
    (folder / "train/cat/more7.png").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    provider = DataProvider("folder", folder)
    assert sum(len(labels) for _, labels in provider.eval_batches("train", 8)) == 205
    assert "more7.png: damaged image, left out (1 so far)" in capsys.readouterr().err
    for name in ("more8.png", "more9.png"):
        (folder / "train/cat" / name).write_bytes(b"")
    strict = DataProvider("folder", folder, max_damaged=0.0)
    with pytest.raises(UserError, match=r"raise --max_damaged"):
        list(strict.eval_batches("train", 8))
