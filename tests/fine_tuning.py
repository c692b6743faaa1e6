"""What the tests of the fine-tuning scripts share: tiny networks, tiny data, comparisons."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from networks import build_supernet, cut_subnet, load_training_state, save_weights, write_config
from search_space import OFASearchSpace
from tests.conftest import ROOT

N_CLASSES, SIZE = 3, 32
RUN_FILES = {"args.yaml", "summary.csv", "last.pth.tar", "model_best.pth.tar", "net.config",
             "net.init", "tensorboard", "train.log", "checkpoint-0.pth.tar",
             "checkpoint-1.pth.tar", "hub"}


def make_networks(folder: Path, n_classes: int = N_CLASSES) -> None:
    """Writes net.config, net.inherited and the supernet that they come from."""
    supernet = build_supernet(n_classes, 0.1)
    save_weights(supernet, folder / "ofa_w0.1")
    net = cut_subnet(supernet, OFASearchSpace([SIZE]).extremes()[0])
    write_config(net, folder / "net.config", resolution=SIZE)
    save_weights(net, folder / "net.inherited")


def make_images(folder: Path, n_train: int = 12, n_val: int = 5) -> None:
    """Writes JPEG files in class folders of train/ and val/: one colour for each class."""
    rng = np.random.default_rng(0)
    for split, n in (("train", n_train), ("val", n_val)):
        for label in range(N_CLASSES):
            (folder / split / f"class{label}").mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 100, (36, 40, 3))
                pixels[..., label] += 100
                path = folder / split / f"class{label}" / f"{i}.jpg"
                Image.fromarray(pixels.astype(np.uint8)).save(path)


def only_run(folder: Path) -> Path:
    """Returns the one folder in `folder`."""
    (run,) = folder.iterdir()
    return run


def kill_when_logged(command: list, log_folder: Path, text: str, timeout: float = 200) -> None:
    """Starts a command and kills it with all its children once its log holds the text."""
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT,
                               start_new_session=True, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + timeout
    try:
        while not any(text in log.read_text() for log in log_folder.glob("*/train.log")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end, f"{text!r} was not logged"
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def assert_same_weights(a: Path, b: Path, atol: float = 1e-6) -> None:
    """Compares the networks, and the averaged ones, of two checkpoints."""
    first, second = load_training_state(a), load_training_state(b)
    assert first["epoch"] == second["epoch"]
    for kind in ("state_dict", "state_dict_ema"):
        assert (kind in first) == (kind in second)
        for key, tensor in first.get(kind, {}).items():
            torch.testing.assert_close(tensor, second[kind][key], atol=atol, rtol=1e-5, msg=key)
