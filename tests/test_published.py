"""The published commands run: those of docs/migrating.md and every name of scripts/search.sh.

They run word for word in a folder where the paths that they name are: miniatures of the real data
sets, a narrow supernet under the published name and in the published naming. What follows the
words are sizes alone: how many evaluations, how many images.
"""

import itertools
import json
import os
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import msunas
import post_search
import train_cifar
import validation
from data_providers.table import DATASETS
from evaluator import build_evaluator
from evaluator.base import Evaluator
from evaluator.jobs import EvaluatorSpec, InProcess
from evaluator.latency import LookUpTable
from evaluator.layers import space_layers
from networks import build_supernet, cut_subnet, save_weights, write_config
from search.settings import DEFAULT_LUT, resolve
from search_space import OFASearchSpace
from tests.conftest import ROOT
from tests.data_providers.layouts import LAYOUTS
from tests.fine_tuning import only_run
from tests.published import published_command, published_commands

NAMES = subprocess.run(["sh", "scripts/search.sh", "list"], cwd=ROOT, capture_output=True,
                       text=True, check=True).stdout.split()
SEARCHES = {words[words.index("--save") + 1]: words[2:] for words in published_commands()
            if words[1] == "msunas.py"}
UNTUNED = "random-cifar10-w1.0"
SUPERNET = "data/ofa_mbv3_d234_e346_k357_w1.0"
SPACE, WIDTH = OFASearchSpace([32, 40]), 0.1
# How many evaluations and images; rbf learns from fewer architectures than the published `as`.
TINY = ["--n_iter", "1", "--vld_size", "10", "--cpu_workers", "1", "--n_workers", "0",
        "--cache_gb", "0.01"]
SEARCH = ["--n_doe", "5", "--iterations", "1", "--predictor", "rbf"]
RANDOM, SWITCHING = ["--n_doe", "3", "--iterations", "0"], ["--n_doe", "20", "--iterations", "1"]
ONE_EPOCH = ["--n_epochs", "1"]
# Those that are the same as a published command, which runs in their place.
SAME = {"imagenet-flops", "imagenet-params", "imagenet-cpu", "imagenet-random", "cifar10-flops",
        "cifar100-flops", "cinic10-flops", "stl10-flops", "aircraft-flops"}


@cache
def planned(name: str) -> tuple[str, ...]:
    """The words that scripts/search.sh runs after `python msunas.py`."""
    done = subprocess.run(["sh", "scripts/search.sh", name, "--data", "DATA"], cwd=ROOT, text=True,
                          capture_output=True, env={**os.environ, "DRY": "1"}, check=True)
    return tuple(done.stdout.splitlines()[2:])


def value_of(words: tuple[str, ...] | list[str]) -> dict[str, str]:
    """Every word by the one before it."""
    return dict(itertools.pairwise(words))


def run(script, *words) -> None:
    """Runs a script in this process, which has loaded torch already."""
    script.main(script.get_args_parser().parse_args([str(word) for word in words]))


@pytest.mark.parametrize("name", NAMES)
def test_every_published_search_can_be_planned(name, tmp_path, capsys):
    """The plan needs no data, but the latency table must hold every layer of the space."""
    run(msunas, *planned(name), "--data", tmp_path / "some data", "--dry_run")
    assert f"{350 if name.endswith('random') else 340} evaluations" in capsys.readouterr().out


def resolved(words: tuple[str, ...] | list[str]) -> dict:
    """The settings of a search, with what the data set's row decides."""
    return resolve(vars(msunas.get_args_parser().parse_args(words))).to_json()


def name_of(words: list[str]) -> str:
    """The name that scripts/search.sh gives a published command."""
    value = value_of(words)
    kind = "random" if value["--iterations"] == "0" else value["--sec_obj"]
    return f"{value.get('--dataset', 'imagenet')}-{kind}"


@pytest.mark.parametrize("words", SEARCHES.values(), ids=SEARCHES)
def test_a_name_stands_for_the_command_that_was_published(words):
    name = name_of(words)
    ours, published = resolved(planned(name)), resolved(words)
    different = {key for key in ours if ours[key] != published[key]}
    # a random search fits no predictor, and the published one of CIFAR-10 does not tune
    allowed = {"save", *(("predictor",) if name.endswith("random") else ())}
    assert different <= (allowed if name in SAME else allowed | {"n_epochs"})


@pytest.mark.parametrize("width", [1.0, 1.2])
@pytest.mark.parametrize("n_classes", sorted({row.n_classes for row in DATASETS.values()
                                              if row.n_classes}))
def test_the_shipped_latency_table_holds_every_class_count(n_classes, width):
    layers = space_layers(OFASearchSpace(), n_classes, width)
    assert not LookUpTable.read(DEFAULT_LUT).missing(layers)


# ---------------------------------------------------------------------------------------- they run


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with what the commands name; `use` puts a data set there as DATA."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    (folder / "data").mkdir()
    save_weights(build_supernet(1000, WIDTH, dropout=0.0), folder / SUPERNET, old_naming=True,
                 meta={"width": WIDTH, "resolutions": SPACE.resolutions})
    (folder / "SUPERNET").symlink_to(SUPERNET)
    return folder


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory):
    """Data sets in the layout of their archives, each made once, by name."""
    with pytest.MonkeyPatch.context() as patch:  # the checksums of the archives
        yield cache(lambda name: LAYOUTS[name](tmp_path_factory.mktemp(name), patch).root)


@cache
def evaluator(name: str, options: str) -> Evaluator:
    """The evaluator of a search; `options` in JSON."""
    return build_evaluator(name, json.loads(options))


@cache
def evaluated(name: str, options: str, arch: str) -> dict:
    """What an evaluator says of an architecture; the searches of a data set begin alike."""
    return evaluator(name, options).evaluate(json.loads(arch))


def in_this_process(backend: str, spec: EvaluatorSpec, **_) -> AbstractContextManager[InProcess]:
    """An engine in the place of workers."""
    options = json.dumps(spec.options, sort_keys=True)
    return nullcontext(InProcess(SimpleNamespace(evaluate=lambda arch, batch_scale: dict(
        evaluated(spec.name, options, json.dumps(arch))))))


@pytest.fixture
def use(place, miniatures, monkeypatch):
    """Goes to the folder, puts a data set there, and lets evaluations run in this process."""
    torch.set_num_threads(1)
    monkeypatch.chdir(place)
    monkeypatch.setattr("search.runner.get_engine", in_this_process)

    def put(dataset: str) -> None:
        Path("DATA").unlink(missing_ok=True)
        Path("DATA").symlink_to(miniatures(dataset))

    return put


def table(n_classes: int) -> str:
    """Writes a latency table of the tiny supernet and returns its path."""
    path = Path(f"lut-{n_classes}.yaml")
    keys = {layer.key for layer in space_layers(SPACE, n_classes, WIDTH) if layer.key}
    path.write_text("".join(f"{key}: {{mean: {i + 1}, var: 0}}\n"
                            for i, key in enumerate(sorted(keys))))
    return str(path)


def check(save: Path, n_doe: int, iterations: int, objective: str) -> None:
    """What a search must have left: its archive, and the figures of each network."""
    archive = json.loads((save / f"iter_{iterations}.stats").read_text())["archive"]
    assert len(archive) == n_doe + iterations
    assert all(0 <= error <= 100 and cost > 0 for _, error, cost in archive)
    for i, (arch, error, cost) in enumerate(archive[:n_doe]):
        stats = json.loads((save / "iter_0" / f"net_{i}.stats").read_text())
        assert json.loads((save / "iter_0" / f"net_{i}.subnet").read_text()) == arch
        assert (100 - stats["top1"], stats[objective]) == (error, cost)
        assert stats["gpu"] is None and all(stats[key] > 0 for key in ("params", "flops", "loss"))
    # the smallest and the largest begin a search, but a random sample is uniform
    smallest, largest = SPACE.extremes()
    archs = [arch for arch, *_ in archive]
    assert (archs[:2] == [smallest, largest]) if iterations else (
        smallest not in archs and largest not in archs)


def search(words, *more, save: Path | None = None) -> None:
    """Runs the words of a search with the sizes `more`, and checks what it leaves."""
    value = value_of([*words, *more])
    objective = value.get("--sec_obj", "flops")
    if objective == "cpu":
        more = (*more, "--lut", table(DATASETS[value.get("--dataset", "imagenet")].n_classes))
    run(msunas, *words, *TINY, *more, *(["--save", save] if save else []))
    check(save or Path(value["--save"]), int(value["--n_doe"]), int(value["--iterations"]),
          objective)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES) - SAME))
def test_one_iteration_of_every_published_search(name, use, tmp_path):
    dataset = name.rsplit("-", 1)[0]
    use(dataset)
    sizes = [*(RANDOM if name.endswith("random") else SEARCH),
             *(ONE_EPOCH if DATASETS[dataset].n_epochs else [])]
    search(planned(name), *sizes, "--supernet_path", SUPERNET, save=tmp_path)


@pytest.mark.slow
def test_the_shell_script_runs_a_search_with_workers(place, tmp_path):
    data = LAYOUTS["cifar10 folders"](tmp_path / "some data", None).root
    words = ["cifar10-random", "--data", data, "--save", tmp_path / "run", "--supernet_path",
             place / SUPERNET, *TINY, *ONE_EPOCH, *RANDOM]
    done = subprocess.run(["sh", "scripts/search.sh", *map(str, words)], cwd=ROOT, text=True,
                          capture_output=True, env={**os.environ, "PYTHON": sys.executable})
    assert done.returncode == 0, done.stderr
    check(tmp_path / "run", 3, 0, "flops")


@pytest.mark.slow
@pytest.mark.parametrize("save", [save for save in SEARCHES if save != UNTUNED])
def test_published_searches_run_word_for_word(save, use):
    words = SEARCHES[save]
    use(value_of(words).get("--dataset", "imagenet"))
    if "--n_doe" in words:
        search(words, *RANDOM)
    elif "cifar10-" in save:
        search(words, *SWITCHING, *ONE_EPOCH)
    else:
        search(words, *SEARCH, *(ONE_EPOCH if "as" in words and "stl10" not in save else []))


@pytest.mark.slow
def test_imagenets_classifier_is_not_asked_about_cifar(use, fails_clearly, tmp_path):
    """The published random search of CIFAR-10 has 0 epochs; with epochs it runs."""
    use("cifar10")
    fails_clearly("msunas.py", *SEARCHES[UNTUNED], "--supernet_path", Path(SUPERNET).resolve(),
                  "--save", tmp_path / "run",
                  match="a network for 1000 classes, but the data set has 10; fine-tune")
    search(SEARCHES[UNTUNED], *RANDOM, *ONE_EPOCH)


@pytest.mark.slow
def test_networks_are_chosen_and_validated_word_for_word(place, use, capsys):
    use("imagenet")
    search(SEARCHES["search-imagenet-flops-w1.0"], *SEARCH, save=Path("search-imagenet"))
    Path("search-imagenet/iter_1.stats").rename("search-imagenet/iter_30.stats")
    run(post_search, *published_command("post_search.py"))
    chosen = sorted(Path("search-imagenet/final").iterdir())
    assert 1 <= len(chosen) <= 4
    assert all({"net.subnet", "net.config", "net.inherited"} <= set(os.listdir(net))
               for net in chosen)
    for file, name in (("net.config", "net.config"), ("net.inherited", "net.init")):
        Path(name).write_bytes((chosen[0] / file).read_bytes())
    capsys.readouterr()
    run(validation, *published_command("validation.py"))
    assert " * Acc@1 " in capsys.readouterr().out


@pytest.mark.slow
def test_cifar_is_tuned_word_for_word(place, use, caplog):
    use("cifar10")
    net = cut_subnet(build_supernet(10, WIDTH), SPACE.extremes()[0])
    write_config(net, place / "net.config")
    save_weights(net, place / "net.inherited")
    run(train_cifar, *published_command("train_cifar.py", img_size=32), "--epochs", 1,
        "--num_workers", 0)
    assert "net.inherited" in caplog.text, "where the weights come from is said"
    assert {"net.config", "net.init"} <= set(os.listdir(only_run(Path("runs/train"))))
