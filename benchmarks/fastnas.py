"""ModelOpt's FastNAS on the network, the pictures and at the price of pretrained.py.

    PEERS/bin/python benchmarks/fastnas.py runs/pretrained [--draws 0 1 2]

The folder is the --save of pretrained.py, with its steps plain96, supernet and search. FastNAS
prunes channels of the network that was fine-tuned at 96 px (step plain96), to the FLOPs of a
network of our front, by the accuracy of the validation pictures; then the pruned network is
fine-tuned for what is left of the CPU time that our supernet and its search took together. PEERS is
an environment with requirements.lock and requirements-peers.lock.
"""

import argparse
import copy
import sys
import time
from pathlib import Path

import torch
from common import benchmark_parser, machine, moment, publish, table
from pretrained import SPACE, spread, whole
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.optim import create_optimizer_v2
from torch import nn

from cli.scripts import run_script
from data_providers import DataProvider
from networks.pretrained import statistics_of
from networks.supernets import cut_subnet, load_supernet
from search_space import get_search_space
from training import loops
from utils.files import read_json

SIZE, BATCH, LR, CROP, VALIDATION = 96, 32, 1e-3, 0.6, 100  # as plain96 is trained
RATES = {"opt": "adamw", "weight_decay": 0.05}


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("runs", type=Path, help="--save of pretrained.py")
    p.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2], help="seeds of the draws")
    p.add_argument("--network", type=int, default=3, help="of our front, whose FLOPs are the limit")
    p.add_argument("--out", default="benchmarks/results/fastnas.md", help="file for the table")
    return p


def main(args: argparse.Namespace) -> None:
    """Prunes a network for each draw; prints and writes the table."""
    torch.set_num_threads(1)
    rows: list[dict[str, dict[str, float]]] = []
    for draw in args.draws:
        rows.append(compare(args.runs / f"draw{draw}", args.network))
        print(draw, rows[-1], flush=True)
    keys = ("mflops", "top1", "seconds", "epochs")
    lines = [(way, *(spread([row[way][key] for row in rows if key in row[way]]) for key in keys))
             for way in rows[0]]
    publish(f"{len(rows)} draws of pictures, one network for one limit.\n{machine()}; {moment()}; "
            "one thread\n\n" + table(("way", "MFLOPs", "test pictures (%)", "CPU seconds",
                                       "epochs after pruning"), lines) + "\n", args.out)


def compare(folder: Path, number: int) -> dict[str, dict[str, float]]:
    """Returns what is reached by whole fine-tuning, our network `number`, and FastNAS."""
    steps = {step: read_json(folder / f"{step}.json", "file of a step")
             for step in ("plain96", "supernet", "search")}
    ours = read_json(folder / "chosen/rescore.json", "scores")["networks"][number - 1]
    limit = float(ours["name"].partition("@")[2])
    price = steps["supernet"]["seconds"] + steps["search"]["seconds"]
    provider = DataProvider("folder", folder / "data", vld_size=VALIDATION, crop_scale=CROP,
                            **statistics_of(SPACE))
    net = traceable(cut_subnet(load_supernet(folder / "plain96", family=SPACE),
                               get_search_space(SPACE, resolutions=[SIZE]).extremes()[1]))
    began = time.process_time() - steps["plain96"]["seconds"]
    before = work(net)
    pruned = prune(net, provider, limit / whole(SIZE))
    pruned_alone = accuracy(pruned, provider, "test")
    epochs = fine_tune(pruned, provider, began + price)
    plain = steps["plain96"]
    return {"whole network, fine-tuned": {"mflops": whole(SIZE), "top1": plain["largest"],
                                          "seconds": plain["seconds"]},
            "FastNAS, pruned": {"top1": pruned_alone},
            "FastNAS, fine-tuned": {
                "mflops": whole(SIZE) * work(pruned) / before, "epochs": epochs,
                "top1": accuracy(pruned, provider, "test"),
                "seconds": time.process_time() - began},
            "ours, of a whole front": {"mflops": limit, "top1": ours["top1"], "seconds": price}}


def traceable(net: nn.Module) -> nn.Module:
    """Replaces the layers of timm that ModelOpt cannot trace by equal ones of torch.

    A convolution of an even input that pads as TensorFlow does becomes a padding and a convolution;
    a norm with its activation becomes a norm and an activation.
    """
    for name, module in list(net.named_modules()):
        equal: nn.Module
        if isinstance(module, Conv2dSame):
            kernel, low = module.kernel_size[0], (module.kernel_size[0] - 2) // 2
            high = kernel - 2 - low
            conv = nn.Conv2d(module.in_channels, module.out_channels, kernel, module.stride[0],
                             groups=module.groups, bias=module.bias is not None)
            conv.load_state_dict(module.state_dict())
            equal = nn.Sequential(nn.ZeroPad2d((low, high, low, high)), conv)
        elif isinstance(module, BatchNormAct2d):
            norm = nn.BatchNorm2d(module.num_features, module.eps, module.momentum)
            norm.load_state_dict(module.state_dict())
            equal = nn.Sequential(norm, module.drop, module.act)
        else:
            continue
        parent, _, leaf = name.rpartition(".")
        setattr(net.get_submodule(parent), leaf, equal.train(module.training))
    return net


def prune(net: nn.Module, provider: DataProvider, share: float) -> nn.Module:
    """Returns the network that FastNAS finds within a share of the FLOPs."""
    import modelopt.torch.prune as mtp

    batches = list(provider.eval_batches("valid", SIZE))
    pruned, _ = mtp.prune(
        net, mode="fastnas", constraints={"flops": f"{100 * share:.2f}%"},
        dummy_input=torch.zeros(1, 3, SIZE, SIZE),
        config={"score_func": lambda model: loops.evaluate(model, batches)["top1"],
                "checkpoint": None})
    return pruned


def accuracy(net: nn.Module, provider: DataProvider, split: str) -> float:
    """Returns the accuracy of a split in percent."""
    return loops.evaluate(net, provider.eval_batches(split, SIZE))["top1"]


def fine_tune(net: nn.Module, provider: DataProvider, deadline: float) -> int:
    """Trains for as many epochs as a measured one lets end before the deadline.

    Args:
        net: changed in place.
        provider: of the pictures.
        deadline: CPU time of this process in seconds.

    Returns:
        The epochs.
    """
    batches = provider.train_loader(SIZE, BATCH, drop_last=True)
    began = time.process_time()
    trial = copy.deepcopy(net)
    loops.train_one_epoch(trial, batches, create_optimizer_v2(trial, lr=LR, **RATES))
    # the measured epoch is not charged
    spent = time.process_time() - began
    epochs = max(int((deadline - began) / spent), 1)
    optimizer = create_optimizer_v2(net, lr=LR, **RATES)
    n_steps = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(
        1.0, (step + 1) / (1 + len(batches))) * loops.cosine(step, n_steps))
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        loops.train_one_epoch(net, batches, optimizer, on_step=lambda *_: schedule.step())
    return epochs


def work(net: nn.Module) -> float:
    """Returns the multiply-accumulates of a network."""
    from torchprofile import profile_macs

    return float(profile_macs(copy.deepcopy(net).eval(), torch.zeros(1, 3, SIZE, SIZE)))


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
