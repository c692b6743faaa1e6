"""How a script shares the processors with others."""

import importlib
import os
import subprocess
import sys

import pytest

import msunas
from cli.progress import share_processors
from tests.conftest import ROOT
from utils.errors import UserError

COMPUTE = ["msunas", "post_search", "validation", "train_cifar", "train_imagenet",
           "train_supernet", "evaluator.__main__", "scripts.export", "scripts.build_lut",
           "scripts.check_lut"]


@pytest.mark.parametrize("module", COMPUTE)
def test_every_script_that_computes_has_the_flag(module):
    parser = importlib.import_module(module).get_args_parser()
    assert "--threads" in parser.format_help()


@pytest.mark.parametrize("first", ["share_processors(1); import torch",
                                   "import torch; share_processors(1)"])
def test_torch_has_the_thread_before_and_after_its_import(first):
    code = f"from cli.progress import share_processors; {first}; import os; " \
        "print(torch.get_num_threads(), os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    assert done.stdout.split() == ["1", "PASSIVE"]


def test_what_the_environment_says_of_waiting_stays(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    share_processors()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "OMP_NUM_THREADS" not in os.environ


def test_the_threads_of_a_search_are_those_of_each_worker(monkeypatch, tmp_path):
    calls = []

    def planned(*args):
        calls.append(args)
        raise UserError("planned")

    monkeypatch.setattr("search.runner.plan_slots", planned)
    flags = ["--dataset", "digits", "--n_gpus", "0", "--cpu_workers", "1", "--threads", "2",
             "--save", str(tmp_path / "run")]
    with pytest.raises(UserError, match="planned"):
        msunas.main(msunas.get_args_parser().parse_args(flags))
    assert calls == [(0, 1, 1, 2, None)]
