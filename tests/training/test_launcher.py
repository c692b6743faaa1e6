"""scripts/distributed_train.sh: what it starts, for either script."""

import os
import subprocess
from pathlib import Path

import pytest

import train_cifar
import train_imagenet
from tests.conftest import ROOT


@pytest.fixture
def launch(tmp_path):
    """Runs the launcher with an interpreter that only writes down its arguments."""
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" END >> "{log}"\n')
    python.chmod(0o755)

    def run(*arguments, **environ) -> list[list[str]]:
        subprocess.run(["sh", "scripts/distributed_train.sh", *map(str, arguments)], cwd=ROOT,
                       check=True, env={**os.environ, "PYTHON": str(python), **environ})
        return [call.splitlines() for call in log.read_text().split("END\n") if call]

    return run


@pytest.mark.parametrize(("script", "module"), [
    ("train_imagenet.py", train_imagenet), ("train_cifar.py", train_cifar)])
def test_the_folder_comes_after_the_number_of_processes(launch, script, module):
    environ = {} if script == "train_imagenet.py" else {"SCRIPT": script}
    check, start = launch(2, "THE DATA", "--model-config", "net.config", **environ)
    assert Path(check[0]).name == script
    args = module.get_args_parser().parse_args(check[1:])
    assert args.check == 2
    if module is train_cifar:
        args = train_cifar.checked(args)
    assert args.data == "THE DATA"
    own = start.index(check[0])
    assert start[own + 1:] == ["THE DATA", "--model-config", "net.config"]
    assert start[:own][-2:] == ["--nproc_per_node", "2"]
