"""Post-training quantisation: accuracy, size and latency of networks before and after.

Five subnets of the embedded supernet of handwritten digits, from the smallest to the largest, each
with recalibrated batch norm, on the 600 test images. Prints Markdown.

    python benchmarks/int8.py > benchmarks/results/int8.md
"""

import os
import tempfile
from pathlib import Path

import numpy as np
from common import ROOT, machine, moment, publish, table

from data_providers import DataProvider
from data_providers.table import DIGITS_SUPERNET
from evaluator.costs import millions, network_costs
from evaluator.exported import (
    calibration_arrays,
    gap,
    latencies,
    random_images,
    top1,
)
from evaluator.layers import config_layers
from networks import cut_subnet, load_supernet, recalibrate_bn
from networks.export import Preprocessing
from networks.export.onnx_file import Onnx, quantise
from networks.export.torch_files import torch_runner
from search_space import OFASearchSpace

RESOLUTIONS = [32, 36, 40, 44, 48]
N_RANDOM_ARCHS, CALIBRATION_IMAGES, BATCH = 3, 500, 100
COLUMNS = ["network", "FLOPs (M)", "top-1 torch", "top-1 ONNX", "top-1 int8", "largest difference",
           "MB ONNX", "MB int8", "ms ONNX", "ms int8"]


def row(name: str, net: object, resolution: int, provider: DataProvider,
        folder: Path) -> list[object]:
    """Returns one line of the table."""
    path, small = folder / "net.onnx", folder / "net.int8.onnx"
    Onnx().write(net, path, Preprocessing(resolution))
    train = provider.eval_batches("train", resolution, BATCH)
    quantise(path, small, calibration_arrays(train, CALIBRATION_IMAGES))
    own, full, quantised = torch_runner(net, 1), Onnx().load(path, 1), Onnx().load(small, 1)
    accuracy, _ = top1({"torch": own, "onnx": full, "int8": quantised},
                       provider.eval_batches("test", resolution, BATCH))
    speed = latencies({"onnx": lambda n: Onnx().load(path, n),
                       "int8": lambda n: Onnx().load(small, n)}, resolution, [1])
    flops = millions(network_costs(config_layers(net.config, resolution)).flops)
    sizes = [f"{os.path.getsize(each) / 1e6:.2f}" for each in (path, small)]
    return [f"{name}, {resolution} px", flops,
            *(f"{accuracy[each]:.2f}" for each in ("torch", "onnx", "int8")),
            f"{gap(own, full, random_images(resolution)).difference:.1e}", *sizes,
            *(f"{speed[each][1]:.2f}" for each in ("onnx", "int8"))]


def main() -> None:
    """Prints the table."""
    provider = DataProvider("digits")
    supernet = load_supernet(ROOT / DIGITS_SUPERNET)
    space = OFASearchSpace(RESOLUTIONS)
    smallest, largest = space.extremes()
    archs = {"smallest": smallest, "largest": largest,
             **{f"random {i + 1}": arch for i, arch in enumerate(
                 space.sample(N_RANDOM_ARCHS, rng=np.random.default_rng(0)))}}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, arch in archs.items():
            net = cut_subnet(supernet, arch)
            recalibrate_bn(net, provider.calibration_batches(arch["r"]))
            rows.append(row(name, net.eval(), arch["r"], provider, Path(folder)))
    publish("# 8-bit quantisation after training\n\n"
            "`python benchmarks/int8.py`. Subnets of `data/ofa_digits_d234_e346_k357_w0.35`; top-1 "
            "in percent on 600 test\nimages, calibration on 500 training images, latency of "
            "onnxruntime for one image with one thread. The largest\ndifference of a logit is that "
            f"of ONNX in float32 from PyTorch. {machine()}.\n{moment()}.\n\n{table(COLUMNS, rows)}")


if __name__ == "__main__":
    main()
