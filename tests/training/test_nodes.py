"""Two nodes of torchrun on one machine: a rank is killed, and both go on with --resume."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.fine_tuning import SIZE, make_networks, only_run

EPOCHS, TIMEOUT = 3, 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start_nodes(folder: Path, *flags) -> list[subprocess.Popen]:
    """Starts the launchers of two nodes with one process each."""
    endpoint = f"localhost:{free_port()}"
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node",
               "1", "--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint, "--rdzv_id", "1",
               "--local_addr", "localhost", "train_cifar.py", "--dataset", "digits", "--device",
               "cpu", "--model-config", folder / "net.config", "--img-size", SIZE, "-j", 0,
               "-b", 200, "--epochs", EPOCHS, "--log-interval", 1, *flags]
    return [subprocess.Popen(list(map(str, command)), cwd=ROOT, start_new_session=True,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                             env={**os.environ, "OMP_NUM_THREADS": "1"}) for _ in range(2)]


def end(nodes: list[subprocess.Popen]) -> None:
    for node in nodes:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
        node.communicate()


def kill_a_rank(node: subprocess.Popen) -> None:
    """Kills the training process of a node, and leaves its launcher."""
    (rank,) = [child for child in psutil.Process(node.pid).children()
               if "train_cifar.py" in " ".join(child.cmdline())]
    rank.kill()


@pytest.mark.slow
def test_two_nodes_go_on_after_a_rank_was_killed(tmp_path):
    make_networks(tmp_path, n_classes=10)
    nodes = start_nodes(tmp_path, "--save", tmp_path / "runs")
    try:
        limit = time.monotonic() + TIMEOUT
        while not any("epoch 1 step 1" in log.read_text()
                      for log in tmp_path.glob("runs/*/train.log")):
            assert time.monotonic() < limit
            assert all(node.poll() is None for node in nodes), nodes[0].communicate()
            time.sleep(0.1)
        kill_a_rank(nodes[1])
        for node in nodes:
            assert node.wait(TIMEOUT) != 0, "both nodes end: their ranks wait for each other"
    finally:
        end(nodes)

    last = only_run(tmp_path / "runs") / "last.pth.tar"
    nodes = start_nodes(tmp_path, "--resume", last)
    try:
        assert [node.wait(TIMEOUT) for node in nodes] == [0, 0]
    finally:
        end(nodes)
    rows = list(csv.DictReader((last.parent / "summary.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert not (last.parent / "train.lock").exists()
