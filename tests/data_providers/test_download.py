"""Downloads, with a server on this machine in the place of the authors' ones."""

import functools
import gzip
import http.server
import importlib
import shutil
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
from torchvision import datasets as tv

from data_providers import DataProvider, datasets
from data_providers.datasets import load_images
from evaluator import build_evaluator
from search.archive import Record, Stats, write_stats
from search_space import OFASearchSpace
from tests.data_providers.layouts import LAYOUTS, md5
from tests.fine_tuning import SIZE, make_networks
from utils.errors import UserError


class Server(http.server.ThreadingHTTPServer):
    """Serves the files of a folder and lists what it is asked for.

    torchvision asks twice for a file: first for redirections, then for its content.
    """

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(Path(self.path).name)
                super().do_GET()

            def log_message(self, *_) -> None:
                pass

        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}/"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "www").mkdir()
    with Server(tmp_path / "www") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def pack(archive: Path, folder: Path, *names: str) -> str:
    """Packs parts of a folder as `archive`; returns its checksum."""
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            tar.add(folder / name, arcname=name)
    return md5(archive)


def cifar_or_stl(kind, monkeypatch, www: Path, url: str, root: Path) -> None:
    monkeypatch.setattr(kind, "tgz_md5", pack(www / kind.filename, root, kind.base_folder))
    monkeypatch.setattr(kind, "url", url + kind.filename)


def fashion_mnist(monkeypatch, www: Path, url: str, root: Path) -> None:
    files = []
    for path in sorted((root / "FashionMNIST" / "raw").iterdir()):
        packed = www / f"{path.name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        files.append((packed.name, md5(packed)))
    monkeypatch.setattr(tv.FashionMNIST, "resources", files)
    monkeypatch.setattr(tv.FashionMNIST, "mirrors", [url])


def aircraft(monkeypatch, www: Path, url: str, root: Path) -> None:
    name = "fgvc-aircraft-2013b"
    pack(www / f"{name}.tar.gz", root, name)
    monkeypatch.setattr(tv.FGVCAircraft, "_URL", f"{url}{name}.tar.gz")


def dtd(monkeypatch, www: Path, url: str, root: Path) -> None:
    monkeypatch.setattr(tv.DTD, "_MD5", pack(www / "dtd.tar.gz", root / "dtd", "dtd"))
    monkeypatch.setattr(tv.DTD, "_URL", f"{url}dtd.tar.gz")


def pets(monkeypatch, www: Path, url: str, root: Path) -> None:
    monkeypatch.setattr(tv.OxfordIIITPet, "_RESOURCES", tuple(
        (f"{url}{name}.tar.gz", pack(www / f"{name}.tar.gz", root / "oxford-iiit-pet", name))
        for name in ("images", "annotations")))


def flowers102(monkeypatch, www: Path, url: str, root: Path) -> None:
    folder = root / "flowers-102"
    files = {"image": ("102flowers.tgz", pack(www / "102flowers.tgz", folder, "jpg"))}
    for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat")):
        shutil.copy(folder / name, www)
        files[key] = (name, md5(www / name))
    monkeypatch.setattr(tv.Flowers102, "_file_dict", files)
    monkeypatch.setattr(tv.Flowers102, "_download_url_prefix", url)


PUBLISHED = {"cifar10": functools.partial(cifar_or_stl, tv.CIFAR10),
             "cifar100": functools.partial(cifar_or_stl, tv.CIFAR100),
             "stl10": functools.partial(cifar_or_stl, datasets.STL10),
             "fashion_mnist": fashion_mnist, "aircraft": aircraft, "dtd": dtd, "pets": pets,
             "flowers102": flowers102}


def publish(name: str, server: Server, tmp_path: Path, monkeypatch):
    """Puts a miniature of a data set on the server; returns the miniature."""
    miniature = LAYOUTS[name](tmp_path / "original", monkeypatch)
    PUBLISHED[name](monkeypatch, tmp_path / "www", server.url, miniature.root)
    return miniature


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_data_set_is_fetched_once_and_read(name, server, tmp_path, monkeypatch):
    miniature = publish(name, server, tmp_path, monkeypatch)
    new = tmp_path / "a new folder"
    provider = DataProvider(name, new, vld_size=2, download=True)
    assert (provider.n_train, provider.n_test) == (miniature.n_train - 2, len(miniature.test))
    fetched = list(server.asked)
    assert fetched and len(fetched) == 2 * len(set(fetched))
    assert DataProvider(name, new, download=True).n_test == len(miniature.test)
    assert server.asked == fetched, "what is there is not fetched again"


def test_of_several_processes_one_fetches(server, tmp_path, monkeypatch):
    publish("cifar10", server, tmp_path, monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda _: load_images("cifar10", tmp_path / "new", "test", True),
                              range(4)))
    assert [len(part) for part in parts] == [20] * 4
    assert server.asked == [tv.CIFAR10.filename] * 2


def test_class_folders_that_are_there_are_taken(server, tmp_path, monkeypatch):
    miniature = LAYOUTS["cifar10 folders"](tmp_path / "data", monkeypatch)
    assert len(load_images("cifar10", miniature.root, "test", download=True)) == 10
    assert not server.asked


def test_a_download_that_fails_is_one_line(server, tmp_path, monkeypatch):
    monkeypatch.setattr(tv.CIFAR10, "url", f"{server.url}missing.tar.gz")
    with pytest.raises(UserError, match="CIFAR10 could not be downloaded") as error:
        load_images("cifar10", tmp_path / "new", "test", download=True)
    assert "\n" not in str(error.value) and "404" in str(error.value)


# ----------------------------------------------------------------------------- the flag of a script

class DataWasReadError(Exception):
    """Ends a script where it has its data."""


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> Path:
    """A supernet, a network of it with its files, and an archive that holds it."""
    folder = tmp_path_factory.mktemp("networks")
    make_networks(folder, 10)
    smallest = OFASearchSpace([SIZE]).extremes()[0]
    write_stats(folder / "iter_1.stats", Stats([Record(smallest, 20.0, 1.0)], [], 0.5))
    return folder


NET = ["--model-config", "net.config", "--initial-checkpoint", "net.inherited"]
SCRIPTS = {
    "msunas": ["--supernet_path", "ofa_w0.1", "--save", "run", "--n_gpus", "0"],
    "post_search": ["--expr", "iter_1.stats", "--supernet_path", "ofa_w0.1", "--save", "chosen"],
    "validation": ["--model", "net.config", "--pretrained", "net.inherited"],
    "evaluator.__main__": ["--config", "net.config", "--init", "net.inherited"],
    "scripts.export": ["net.config", "net.inherited", "--to", "safetensors"],
    "train_cifar": NET,
    "train_imagenet": [*NET, "-b", "8"],
    "train_supernet": ["--save", "supernet_w0.1", "--resolutions", "32", "--epochs", "1"]}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_fetches_its_data_set(name, server, networks, tmp_path, monkeypatch):
    """Every script with the flag; tests/test_documents.py says which have it."""
    publish("cifar10", server, tmp_path, monkeypatch)
    monkeypatch.chdir(networks)
    monkeypatch.setattr("search.runner.get_engine", lambda backend, spec, **_: nullcontext(
        build_evaluator(spec.name, spec.options)))
    made = DataProvider.__init__

    def read(provider: DataProvider, *arguments, **options) -> None:
        made(provider, *arguments, **options)
        raise DataWasReadError(provider.n_test)

    monkeypatch.setattr(DataProvider, "__init__", read)
    script = importlib.import_module(name)
    new = str(tmp_path / "new")
    words = [*SCRIPTS[name], "--dataset", "cifar10", "--download",
             *([new] if name == "train_imagenet" else ["--data", new])]
    with pytest.raises(DataWasReadError, match="20"):
        script.main(script.get_args_parser().parse_args(words))
    assert server.asked == [tv.CIFAR10.filename] * 2


def test_train_cifar_names_download_where_its_folder_is_empty(networks, tmp_path, monkeypatch):
    """The original fetched CIFAR unasked."""
    monkeypatch.chdir(networks)
    script = importlib.import_module("train_cifar")
    with pytest.raises(UserError, match=f"{tmp_path}.*cifar10.*--download fetches it"):
        script.main(script.get_args_parser().parse_args([*NET, "--data", str(tmp_path)]))
