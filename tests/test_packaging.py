"""The wheel, its commands, hubconf.py, completion: the project outside a checkout."""

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from data_providers.table import DIGITS_SUPERNET
from msunas_cli import COMMANDS, COMPLETION, load_script
from networks import cut_subnet, load_supernet, save_weights, write_config
from search.archive import Record
from search.model_cards import search_cards
from search_space import OFASearchSpace
from tests.conftest import ROOT, loads_folders
from utils.files import shipped
from utils.invocation import program

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_top_level_script_has_a_command_and_every_command_an_entry_point():
    scripts = {path.name for path in ROOT.glob("*.py")} - {"setup.py", "hubconf.py"}
    assert scripts <= set(COMMANDS.values())
    assert {*COMMANDS, COMPLETION} == set(PROJECT["scripts"])
    for command, target in PROJECT["scripts"].items():
        assert target == ("msunas_cli.completion:main" if command == COMPLETION
                          else f"msunas_cli:{command.replace('-', '_')}")
    assert {command.split("-")[0] for command in PROJECT["scripts"]} == {"msunas"}


def test_a_checkout_calls_files_and_modules():
    assert program("post_search.py") == "python post_search.py"
    assert program("scripts/report.py") == "python scripts/report.py"
    assert program("acc_predictor/__main__.py") == "python -m acc_predictor"
    assert program("evaluator/costs/__main__.py") == "python -m evaluator.costs"


@pytest.mark.parametrize(("command", "checkout", "package"), [
    ("msunas-export", "python scripts/export.py runs/flops --to", "msunas-export runs/flops --to"),
    ("msunas-convert-nasbench", "tables for python msunas.py --table", "tables for msunas --table"),
    ("msunas-predictor", "which python msunas.py --evaluator", "which msunas --evaluator")])
def test_helps_name_the_commands_that_are_there(monkeypatch, command, checkout, package):
    def said():
        return " ".join(load_script(command).get_args_parser().format_help().split())

    assert checkout in said()
    monkeypatch.setattr("utils.invocation._FOLDER", Path("site-packages/msunas_cli/project"))
    assert package in said()
    assert checkout not in said()


def test_a_card_names_the_command_that_is_there(monkeypatch):
    def note():
        records = {"net": Record({}, 5.0, 1.0)}
        return search_cards(records, ["1 of 1"], "digits", "w", None, {}, 100, None)[0].notes[0]

    assert note().endswith("`python post_search.py --rescore` does.")
    monkeypatch.setattr("utils.invocation._FOLDER", Path("site-packages/msunas_cli/project"))
    assert note().endswith("`msunas-select --rescore` does.")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_module(command):
    script = load_script(command)
    assert callable(script.main)
    assert script.get_args_parser().prog


def test_the_pins_lie_within_the_ranges():
    from packaging.requirements import Requirement

    pins = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        name, separator, version = line.partition("==")
        if separator:
            pins[name.strip().lower()] = version.split(";")[0].strip()
    ranges = {each.name.lower(): each for each in map(Requirement, PROJECT["dependencies"])}
    for name, version in pins.items():
        if name in ranges:
            assert ranges[name].specifier.contains(version, prereleases=True), name
    assert set(pins) - set(ranges) <= {"cython"}


def test_the_files_of_a_release_agree():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert newest == f"{PROJECT['version']}, {cited['date-released']}"
    assert cited["version"] == PROJECT["version"] and cited["license"] == PROJECT["license"]
    paper, readme = cited["preferred-citation"], (ROOT / "README.md").read_text()
    assert paper["title"].partition(": ")[2] in readme
    assert " and ".join(f"{author['family-names']}, {author['given-names']}"
                        for author in paper["authors"]) in readme


def test_the_workflow_runs_what_is_there():
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]
    run = [words for job in jobs.values() for step in job["steps"]
           for words in [step.get("run", "").split()] if words]
    assert [words[:2] for words in run] == [["bash", ".ci/run"], ["bash", "scripts/test.sh"]]
    assert all((ROOT / words[1]).is_file() for words in run)
    script = (ROOT / "scripts/test.sh").read_text()
    modes = jobs["ranges"]["strategy"]["matrix"]["include"]
    assert [mode["versions"] for mode in modes] == ["--lowest", "--newest"]
    assert all(f"    {mode['versions']})" in script for mode in modes)


def test_the_image_is_made_of_what_is_there():
    lines = [line.split() for line in (ROOT / "Dockerfile").read_text().splitlines()
             if line and not line.startswith("#")]
    copied = [name for line in lines if line[0] == "COPY" for name in line[1:-1]]
    assert "requirements.lock" in copied and all((ROOT / name).exists() for name in copied)
    set_up = (ROOT / "scripts/setup_env.sh").read_text()
    for line in lines:
        if line[0] == "ARG":
            assert f"${{{line[1].partition('=')[0]}:-}}" in set_up
    hidden = (ROOT / ".dockerignore").read_text().split()
    assert {".venv*", "runs"} <= {*hidden}  # COPY must not replace the environment


def test_shipped_files_are_found_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert shipped("data/cpu_lut_mbv3.yaml") == "data/cpu_lut_mbv3.yaml"
    monkeypatch.chdir(tmp_path)
    assert Path(shipped("data/cpu_lut_mbv3.yaml")) == ROOT / "data/cpu_lut_mbv3.yaml"
    assert shipped("data/absent") == "data/absent"


def test_a_file_of_the_current_folder_is_not_taken_for_the_shipped_one(tmp_path, run_command):
    name = "data/ofa_digits_d234_e346_k357_w0.35"
    (tmp_path / "data").mkdir()
    (tmp_path / name).write_text("of somebody else")
    done = run_command(ROOT / "msunas.py", "--dry_run", "--dataset", "digits", "--save", "run",
                       cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"supernet {ROOT / name}\n" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_the_flags(shell, run_command):
    pytest.importorskip("shtab")
    done = run_command("-m", "msunas_cli.completion", shell)
    assert done.returncode == 0, done.stderr
    for word in ("msunas-select", "msunas-export", "constraint", "skip_latency"):
        assert word in done.stdout
    if shell == "bash":
        checked = subprocess.run(["bash"], input=done.stdout + "\ncomplete -p msunas-select\n",
                                 capture_output=True, text=True)  # too long for an argument
        assert "msunas-select" in checked.stdout, checked.stderr


def test_completion_refuses_another_shell(fails_clearly):
    fails_clearly("-m", "msunas_cli.completion", "fish", match="invalid choice")


# ---------------------------------------------------------------------------------- torch.hub


HUB = """
import json, sys, torch
config, weights, repo = sys.argv[1:]
net = torch.hub.load(repo, "nsganetv2", config=config, weights=weights, source="local")
assert not net.training
with torch.inference_mode():
    print(json.dumps(net(torch.linspace(-1, 1, 3072).reshape(1, 3, 32, 32))[0].tolist()))
"""


def test_torch_hub_loads_a_network(tmp_path):
    supernet = load_supernet(ROOT / DIGITS_SUPERNET)
    net = cut_subnet(supernet, OFASearchSpace([32]).sample(1, rng=np.random.default_rng(0))[0])
    write_config(net, tmp_path / "net.config", resolution=32)
    save_weights(net, tmp_path / "net.inherited")
    with torch.inference_mode():
        expected = net(torch.linspace(-1, 1, 3072).reshape(1, 3, 32, 32))[0].tolist()
    done = subprocess.run(
        [sys.executable, "-c", HUB, tmp_path / "net.config", tmp_path / "net.inherited", ROOT],
        cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == pytest.approx(expected, abs=1e-6)


# -------------------------------------------------------------------------------------- wheel


SDIST = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment with the wheel of the sdist; the rest are the packages of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-c", SDIST, folder], cwd=copy_of_project(folder), check=True,
                   capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    assert sdist.name == f"msunas-{PROJECT['version']}.tar.gz"
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps",
                    "--no-build-isolation", "-w", folder, sdist], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps",
                    "--no-index", "--no-compile", wheel], check=True)
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    added = sorted(entry.name for entry in site.iterdir())
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    return folder, added


def copy_of_project(folder: Path) -> Path:
    """What git would check out, so that the build leaves nothing in the working tree."""
    import shutil

    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True,
                           capture_output=True, check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    return folder / "source"


@pytest.mark.slow
def test_the_wheel_shadows_nothing_and_works_elsewhere(installed, tmp_path):
    loads_folders()
    folder, added = installed
    assert [name for name in added if not name.endswith(".dist-info")] == ["msunas_cli",
                                                                           "msunas_timm"]
    bin_folder = folder / "venv" / "bin"
    assert set(PROJECT["scripts"]) <= {path.name for path in bin_folder.iterdir()}

    def command(name, *arguments):
        done = subprocess.run([bin_folder / name, *map(str, arguments)], cwd=tmp_path, text=True,
                              capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, f"{name}: {done.stderr}"
        return done.stdout

    assert command("msunas", "--version").startswith(f"msunas {PROJECT['version']}\n")
    said = command("msunas", "--dataset", "digits", "--n_doe", 2, "--iterations", 0, "--save",
                   "search", "--n_workers", 0, "--cpu_workers", 1, "--no_report")
    (hint,) = re.findall(r"(msunas-select --expr .*)", said)
    command(*shlex.split(hint), "--list")
    assert "python " not in said
    settings = json.loads((tmp_path / "search" / "settings.json").read_text())
    assert "msunas_cli/project/data" in settings["supernet_path"]
    rows = json.loads(command("msunas-select", "--expr", "search", "--save", "chosen", "--format",
                              "json"))
    net = tmp_path / "chosen" / rows[0]["chosen"]
    assert (net / "hub" / "model.safetensors").exists()

    assert "msunas --save search" in (net / "hub" / "README.md").read_text()

    code = ("import importlib.util, sys\n"
            "for name in ('utils', 'evaluator', 'networks', 'cli', 'search'):\n"
            "    assert importlib.util.find_spec(name) is None, name\n"
            "import timm, msunas_timm\n"
            "net = timm.create_model('local-dir:' + sys.argv[1], pretrained=True)\n"
            "from msunas_cli import Search, get_engine\n"
            "assert Search.__module__ == 'visualization.notebook'\n"
            "from networks import build_from_config\n"
            "from utils.invocation import program\n"
            "import msunas_cli\n"
            "assert [*map(program, msunas_cli.COMMANDS.values())] == [*msunas_cli.COMMANDS]\n"
            "print(net.num_classes)")
    done = subprocess.run([bin_folder / "python", "-P", "-c", code, net / "hub"], cwd=tmp_path,
                          text=True, capture_output=True)
    assert done.stdout == "10\n", done.stderr


@pytest.mark.parametrize(("code", "error"), [
    ("from msunas_cli import Search, plan_slots; print(plan_slots.__module__)", ""),
    ("import utils; from msunas_cli import Search", "utils: already imported from other code")])
def test_the_api_is_one_import(tmp_path, run_command, code, error):
    (tmp_path / "utils.py").touch()
    done = run_command("-c", f"import sys; sys.path.append({str(ROOT)!r}); sys.path.pop(0)\n"
                       f"if {bool(error)}: sys.path.insert(0, {str(tmp_path)!r})\n"
                       f"sys.path_importer_cache.clear(); {code}", cwd=tmp_path)
    assert error in done.stderr and bool(done.returncode) == bool(error), done.stderr
    assert error or done.stdout == "evaluator.jobs.plan\n"
