"""The steps of cifar10_cpu.sh that no command of the project does.

    python benchmarks/cifar10_cpu.py --data DATA --run RUN teacher --weights FILE
    python benchmarks/cifar10_cpu.py --data DATA --run RUN random | baselines | plain | report

`teacher` tunes EfficientNet-Lite0 with ImageNet's weights on CIFAR-10. `random` measures random
subnets that cost as much as the chosen ones. `baselines` trains networks of timm from nothing, as
the supernet is trained. `plain` measures the pretrained network, fine-tuned as a whole at several
sizes. `report` makes tables and pictures of all that is there. Accuracies are
those of the test images, which neither a training nor a search saw.
"""

import argparse
import csv
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import benchmark_parser, machine, table

from cli.scripts import run_script
from utils.errors import UserError
from utils.files import read_json, write_json, write_text

SEED, TEACHER_SIZE, CROP_SCALE = 0, 64, 0.35
TEACHER_EPOCHS = 8  # as train_supernet.py --teacher_epochs
TEACHER = "tf_efficientnet_lite0"
PRETRAINED = "lite0"  # the supernet from pretrained weights
BASELINES = {"mobilenetv3_small_100": 48, TEACHER: 32}  # with pixels of a side: FLOPs of the front
TEST_LINE = r"test images: (.*)"  # of the log of a supernet's training
TOLERANCE = 0.03  # of the FLOPs of a random network


# ------------------------------------------------------------------------------------ trainings


def provider(args: argparse.Namespace, supernet: Any = None) -> Any:
    """Returns the images, split as the search splits them, normalised as a supernet needs them."""
    from data_providers import DataProvider

    known = {} if supernet is None else {
        name: supernet.meta.get(name) for name in ("mean", "std", "crop_scale")}
    return DataProvider("cifar10", args.data, vld_size=args.vld_size, seed=SEED, **known)


def train(nets: dict[str, tuple[Any, int]], images: Any, epochs: int, lr: float,
          taught: Any = None) -> None:
    """Trains as train_supernet.py does: AdamW, cosine, label smoothing, clipped gradients.

    Args:
        nets: networks and the size of their images; all see the same images.
        images: the provider.
        epochs: of all.
        lr: of all.
        taught: a teacher, images -> logits, which is asked once for all networks, in the first
            `TEACHER_EPOCHS`; later ones repeat their crops.
    """
    import torch
    from timm.optim import create_optimizer_v2

    from data_providers.transforms import train_geometry
    from training.loops import KeptLogits, add_gradients, cosine
    from utils.devices import to_device

    torch.manual_seed(SEED)
    largest = max(size for _, size in nets.values())
    crops = train_geometry(replace(images.info, crop_scale=CROP_SCALE), largest)
    loader = images.train_loader(largest, 128, seed=SEED, drop_last=True, transform=crops)
    optimizers = {name: create_optimizer_v2(net, "adamw", lr=lr, weight_decay=0.05)
                  for name, (net, _) in nets.items()}
    unscaled = torch.amp.GradScaler(enabled=False)
    for net, _ in nets.values():
        net.train().to(memory_format=torch.channels_last)
    teacher = None if taught is None else KeptLogits(taught, TEACHER_EPOCHS)
    for epoch in range(epochs):
        loader.set_epoch(teacher.crops(epoch) if teacher else epoch)
        began, sums = time.perf_counter(), dict.fromkeys(nets, 0.0)
        for i, (batch, labels) in enumerate(loader):
            batch = to_device(batch, torch.device("cpu"))
            step = epoch * len(loader) + i
            factor = min(1.0, (step + 1) / len(loader)) * cosine(step, epochs * len(loader))
            soft = teacher(batch, epoch, i) if teacher else None
            for name, (net, size) in nets.items():
                loss = partial(loss_of, net, size, batch, labels, soft)
                sums[name] += add_gradients(net, [loss], unscaled).item()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
                for group in optimizers[name].param_groups:
                    group["lr"] = lr * factor
                optimizers[name].step()
                optimizers[name].zero_grad()
        losses = ", ".join(f"{name} {value / len(loader):.4f}" for name, value in sums.items())
        print(f"epoch {epoch + 1}/{epochs}, {time.perf_counter() - began:.0f} s: {losses}",
              flush=True)
    for net, _ in nets.values():
        net.eval()


def loss_of(net: Any, size: int, images: Any, labels: Any, soft: Any) -> Any:
    """Returns the loss of one network on images of its size, `soft` being the teacher's logits."""
    from torch.nn.functional import cross_entropy, interpolate

    from training.loops import soft_cross_entropy

    logits = net(interpolate(images, (size, size), mode="bilinear", antialias=True))
    hard = cross_entropy(logits, labels, label_smoothing=0.1)
    return hard if soft is None else hard + soft_cross_entropy(logits, soft)


def score(net: Any, images: Any, size: int) -> list[int]:
    """Returns the number of test images that a network classifies rightly, and of all."""
    from evaluator.rescore import answers

    right, _ = answers(net, images.eval_batches("test", size))
    return [int(right.sum()), len(right)]


def teacher(args: argparse.Namespace) -> None:
    """Tunes the teacher and writes `teacher.pth`."""
    import timm
    from torch import nn

    from networks import load_checkpoint, save_weights

    net = timm.create_model(TEACHER)
    weights = load_checkpoint(args.weights)  # the keys have other names, in the same order
    net.load_state_dict(dict(zip(net.state_dict(), weights.values(), strict=True)))
    images, began = provider(args), time.perf_counter()
    net.classifier = nn.Linear(net.num_features, images.n_classes)
    train({TEACHER: (net, TEACHER_SIZE)}, images, args.epochs, args.lr)
    save_weights(net, args.run / "teacher.pth")
    figures = {"right": score(net, images, TEACHER_SIZE), "seconds": time.perf_counter() - began,
               "epochs": args.epochs}
    write_json(args.run / "teacher.json", figures)
    print(figures)


def load_teacher(args: argparse.Namespace) -> Any:
    """Returns the tuned teacher, as the supernet saw it: at its own size and precision."""
    from torch import nn
    from torchvision.transforms.v2 import Resize

    from training.students import load_teacher as load
    from utils.devices import InPrecision

    net = load(TEACHER, str(args.run / "teacher.pth"), 10).net
    return InPrecision(nn.Sequential(Resize((TEACHER_SIZE, TEACHER_SIZE)), net), args.teacher_amp)


def baselines(args: argparse.Namespace) -> None:
    """Trains networks of timm from random weights, side by side; writes `baselines.json`."""
    import timm
    import torch
    from torchprofile import profile_macs

    images = provider(args)
    torch.manual_seed(SEED)
    nets = {name: (timm.create_model(name, num_classes=images.n_classes), size)
            for name, size in BASELINES.items()}
    macs = {name: profile_macs(net.eval(), torch.zeros(1, 3, size, size))
            for name, (net, size) in nets.items()}
    train(nets, images, args.epochs, 1e-3, load_teacher(args))
    write_json(args.run / "baselines.json", {
        name: {"size": size, "flops": macs[name] / 1e6, "epochs": args.epochs,
               "right": score(net, images, size)} for name, (net, size) in nets.items()})


def random(args: argparse.Namespace) -> None:
    """Measures random subnets that cost as much as the chosen ones; writes `random.json`."""
    supernet = the_supernet(args.run)
    images = provider(args, supernet)
    rng, found = np.random.default_rng(SEED), []
    space, costs = space_and_costs(supernet)
    candidates = at_any_cost(space, rng)
    flops = costs.values(candidates, "flops")
    for net in chosen(args.run / "flops" / "selected"):
        target = flops_of(space, costs, net["arch"])
        near = candidates[np.abs(flops / target - 1) < TOLERANCE][:args.n]
        for x in near:
            arch = space.decode(x)
            found.append({"like": net["name"], "flops": flops_of(space, costs, arch),
                          "right": subnet_score(supernet, images, arch)})
        print(f"{net['name']}: {len(near)} random networks", flush=True)
    write_json(args.run / "random.json", {"networks": found})


def plain(args: argparse.Namespace) -> None:
    """Measures the fine-tuned whole networks, of supernets at one size; writes `plain.json`."""
    from networks import load_supernet

    found = {}
    for file in sorted(args.run.glob("plain*.finished")):
        supernet = load_supernet(file.with_suffix(""))
        images, (space, costs) = provider(args, supernet), space_and_costs(supernet)
        arch = space.extremes()[1]
        found[f"{arch['r']} px"] = {
            "size": arch["r"], "flops": flops_of(space, costs, arch),
            "epochs": sum(supernet.meta["epochs"]), "right": subnet_score(supernet, images, arch)}
    write_json(args.run / "plain.json", found)


def subnet_score(supernet: Any, images: Any, arch: Any) -> list[int]:
    """Returns the number of test images that a subnet classifies rightly, and of all."""
    from networks import cut_subnet
    from networks.batch_norm import recalibrate_bn

    subnet = cut_subnet(supernet, arch)
    recalibrate_bn(subnet, images.calibration_batches(arch["r"]))
    return score(subnet, images, arch["r"])


def at_any_cost(space: Any, rng: np.random.Generator) -> np.ndarray:
    """Returns random vectors in random order: uniform ones, and cheaper or more expensive ones.

    Uniform ones alone would hardly have the cost of a network near an end of the front.
    """
    drawn = [reduce.reduce([space.draw(20_000, rng) for _ in range(k)])
             for reduce in (np.minimum, np.maximum) for k in range(1, 6)]
    return rng.permutation(space.canonical(np.concatenate(drawn)))


# -------------------------------------------------------------------------------- what was made


def the_supernet(run: Path) -> Any:
    """Returns the supernet of a folder, from random or from pretrained weights."""
    from networks import load_supernet

    return load_supernet(next(path for name in ("ofa_*_w0.5", PRETRAINED)
                              for path in run.glob(name)))


def space_and_costs(supernet: Any) -> tuple[Any, Any]:
    """Returns the search space of a supernet, and its cost model."""
    from evaluator.costs import CostModel
    from search_space import get_search_space

    meta = supernet.meta
    space = get_search_space(meta["search_space"], resolutions=meta["resolutions"])
    return space, CostModel(space, supernet.classifier.out_features, supernet.width_mult)


def flops_of(space: Any, costs: Any, arch: Any) -> float:
    """Returns the millions of FLOPs of one architecture."""
    return float(costs.values(space.encode(arch)[None], "flops")[0])


def chosen(folder: Path) -> list[dict[str, Any]]:
    """Returns the networks of post_search.py: name, architecture, the folder of each."""
    return [{"name": each.name, "folder": each, "arch": {
                key: value for key, value in read_json(each / "net.subnet").items()
                if key != "search_space"}}
            for each in sorted(folder.glob("net-*"), key=lambda path: float(
                path.name.partition("@")[2].split("+")[0]))]


def tuned(args: argparse.Namespace, net: dict[str, Any], images: Any) -> list[int]:
    """Returns the figures of a network after train_cifar.py, kept in `tuned/test.json`."""
    from networks import build_from_config, load_weights, read_config

    folder = next((net["folder"] / "tuned").glob("*/net.init")).parent
    file = folder / "test.json"
    if not file.exists():
        subnet = build_from_config(read_config(folder / "net.config"))
        load_weights(subnet, folder / "net.init")
        write_json(file, {"right": score(subnet, images, net["arch"]["r"])})
    return list(read_json(file)["right"])


def searched(run: Path) -> dict[str, float]:
    """Returns the validation accuracy in percent of every architecture of a search, by its text."""
    last = max(run.glob("iter_*.stats"), key=lambda path: int(path.stem.partition("_")[2]))
    rows = read_json(last)["archive"]
    return {str(row[0]): 100 - row[1] for row in rows}


def with_interval(right: list[int]) -> str:
    """Returns an accuracy with its 95 % interval."""
    from utils.intervals import wilson

    low, high = wilson(*right)
    return f"{percent(right):.2f} ({low:.2f} to {high:.2f})"


def percent(right: list[int]) -> float:
    """Returns an accuracy in percent."""
    return 100 * right[0] / right[1]


def last_line(file: Path, pattern: str) -> str:
    """Returns what a pattern finds last in a log."""
    found = re.findall(pattern, file.read_text(errors="replace")) if file.exists() else []
    return str(found[-1]) if found else "-"


def report(args: argparse.Namespace) -> None:
    """Writes `report.md`, `front.png` and, from random weights, `ranks.png`."""
    (report_of_pretrained if (args.run / PRETRAINED).exists() else report_of_scratch)(args)


def report_of_pretrained(args: argparse.Namespace) -> None:
    """Writes the report of a supernet from pretrained weights."""
    run, nets = args.run, chosen(args.run / "flops" / "selected")
    space, costs = space_and_costs(the_supernet(run))
    before = rescored(run)
    valid, others = searched(run / "flops"), list(read_json(run / "random.json")["networks"])
    whole = {f"{TEACHER}, {name}": each for name, each in read_json(run / "plain.json").items()}
    front = [(flops_of(space, costs, net["arch"]), before[net["name"]]["top1"]) for net in nets]
    draw_front(run / "front.png", {"front, weights of the supernet": np.array(front)}, others,
               whole)
    rows = [(f"{flops:.2f}", net["arch"]["r"], f"{valid[str(net['arch'])]:.2f}",
             tested(before[net["name"]])) for net, (flops, _) in zip(nets, front, strict=True)]
    write_text(run / "report.md", "\n\n".join([
        machine(), times(run), f"Supernet: {last_line(run / 'supernet.log', TEST_LINE)}",
        "## Chosen networks\n\n" + table(
            ("MFLOPs", "pixels", "validation, search (%)", "test (%)"), rows),
        neighbours(run), beaten(front, others, nets), networks_of_timm(whole)]) + "\n")
    print(run / "report.md")


def report_of_scratch(args: argparse.Namespace) -> None:
    """Writes the report of a supernet from random weights."""
    run, images = args.run, provider(args)
    space, costs = space_and_costs(the_supernet(run))
    before = rescored(run)
    exported = {net["name"]: read_json(net["folder"] / "export" / "export.json")
                for net in chosen(run / "flops" / "selected")}
    valid = searched(run / "flops")
    rows, front = [], []
    for net in chosen(run / "flops" / "selected"):
        flops, right = flops_of(space, costs, net["arch"]), tuned(args, net, images)
        front.append((flops, before[net["name"]]["top1"], percent(right)))
        onnx = exported[net["name"]]["onnx"]
        rows.append((f"{flops:.2f}", f"{valid[str(net['arch'])]:.2f}",
                     tested(before[net["name"]]), with_interval(right),
                     f"{onnx['sizes']['onnx'] / 1e6:.2f}",
                     f"{onnx['latency']['onnx']['1']:.2f}", f"{onnx['largest']:.1g}"))
    spread = np.array([(flops_of(space, costs, net["arch"]), valid[str(net["arch"])],
                        percent(tuned(args, net, images)))
                       for net in chosen(run / "flops" / "spread")])
    others = list(read_json(run / "random.json")["networks"])
    trained = read_json(run / "baselines.json")
    points = np.array(front)
    draw_front(run / "front.png", {"front, weights of the supernet": points[:, :2],
                                   "front, tuned": points[:, ::2]}, others, trained)
    draw_ranks(run / "ranks.png", spread)
    write_text(run / "report.md", "\n\n".join([
        machine(), times(run), teaching(run),
        "## Chosen networks\n\n" + table(
            ("MFLOPs", "validation, search (%)", "test, search (%)", "test, tuned (%)",
             "ONNX (MB)", "one thread (ms)", "largest difference"), rows),
        neighbours(run),
        beaten([each[:2] for each in front], others, chosen(run / "flops" / "selected")),
        f"## Ranks\n\n{len(spread)} networks across the front: Kendall's tau of the accuracy in "
        f"the search with that after tuning {kendall(spread[:, 1], spread[:, 2]):.3f}",
        networks_of_timm(trained)]) + "\n")
    print(run / "report.md")


def rescored(run: Path) -> dict[str, Any]:
    """Returns what post_search.py measured of each chosen network on the test images, by name."""
    file = run / "flops" / "selected" / "rescore.json"
    return {each["name"]: each for each in read_json(file)["networks"]}


def tested(scores: dict[str, Any]) -> str:
    """Returns the accuracy that `rescored` has of a network, with its interval."""
    return "{:.2f} ({:.2f} to {:.2f})".format(scores["top1"], *scores["interval"])


def networks_of_timm(trained: dict[str, Any]) -> str:
    """Returns the table of the networks that the front is compared with."""
    return "## Networks of timm\n\n" + table(
        ("network", "pixels", "MFLOPs", "epochs", "test (%)"),
        [(name, each["size"], f"{each['flops']:.1f}", each["epochs"], with_interval(each["right"]))
         for name, each in trained.items()])


def times(run: Path) -> str:
    """Returns the table of the steps."""
    minutes: dict[str, np.ndarray] = {}  # a step that was cut has several rows
    with open(run / "steps.tsv", newline="") as file:
        for name, wall, cpu, _ in csv.reader(file, delimiter="\t"):
            minutes[name] = minutes.get(name, np.zeros(2)) + np.array([int(wall), int(cpu)]) / 60
    return "## Steps\n\n" + table(("step", "minutes", "minutes of a core"), [
        (name, f"{wall:.1f}", f"{cpu:.1f}") for name, (wall, cpu) in minutes.items()])


def teaching(run: Path) -> str:
    """Returns what the teacher gained in trainings of equal length."""
    return "## Teacher\n\n" + table(("training", "test images"), [
        ("the teacher itself", with_interval(read_json(run / "teacher.json")["right"])),
        ("short, with the teacher", last_line(run / "short_taught.log", TEST_LINE)),
        ("short, without", last_line(run / "short_alone.log", TEST_LINE)),
        ("the supernet", last_line(run / "supernet.log", TEST_LINE))])


def neighbours(run: Path) -> str:
    """Returns which neighbours on the front the test images tell apart."""
    pairs = read_json(run / "flops" / "selected" / "rescore.json")["neighbours"]
    return "## Neighbours\n\n" + table(("pair", "points", "95 % interval", "told apart"), [
        (f"{pair['first']}, {pair['second']}", f"{pair['points']:+.2f}",
         "{:+.2f} to {:+.2f}".format(*pair["interval"]), "yes" if pair["distinct"] else "no")
        for pair in pairs])


def beaten(front: Sequence[tuple[float, float]], others: list[dict[str, Any]],
           nets: list[dict[str, Any]]) -> str:
    """Returns how the chosen networks, of (MFLOPs, %), compare with random ones of equal FLOPs."""
    rows = []
    for net, (flops, top1) in zip(nets, front, strict=True):
        like = [percent(each["right"]) for each in others if each["like"] == net["name"]]
        if like:
            rows.append((f"{flops:.2f}", f"{top1:.2f}", f"{np.mean(like):.2f}", f"{max(like):.2f}",
                         f"{sum(value < top1 for value in like)} of {len(like)}"))
    return "## Random networks of equal FLOPs\n\n" + table(
        ("MFLOPs", "front (%)", "random, mean (%)", "random, best (%)", "worse"), rows)


def kendall(first: np.ndarray, second: np.ndarray) -> float:
    """Returns Kendall's tau."""
    from scipy.stats import kendalltau

    return float(kendalltau(first, second).statistic)


def draw_front(path: Path, fronts: dict[str, np.ndarray], others: list[dict[str, Any]],
               trained: dict[str, Any]) -> None:
    """Draws test accuracy against FLOPs: fronts (n, 2), random networks, networks of timm."""
    axes = new_axes("MFLOPs", "top-1 on the test images (%)")
    axes.plot([each["flops"] for each in others], [percent(each["right"]) for each in others], ".",
              color="0.7", label="random subnets")
    for marker, (label, front) in zip("os", fronts.items(), strict=False):
        axes.plot(front[:, 0], front[:, 1], f"{marker}-", label=label)
    for name, each in trained.items():
        axes.plot(each["flops"], percent(each["right"]), "k^")
        axes.annotate(name, (each["flops"], percent(each["right"])), textcoords="offset points",
                      xytext=(0, -12), ha="center", fontsize=7)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.1)
    for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        which("{x:g}")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize="small")
    axes.figure.savefig(path, dpi=120)


def draw_ranks(path: Path, spread: np.ndarray) -> None:
    """Draws accuracy after tuning against accuracy in the search."""
    axes = new_axes("validation accuracy in the search (%)", "top-1 after tuning, test images (%)")
    axes.plot(spread[:, 1], spread[:, 2], "o")
    axes.figure.savefig(path, dpi=120)


def new_axes(x: str, y: str) -> Any:
    """Returns the axes of a new picture."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6.4, 4.2), layout="constrained").add_subplot()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return axes


STEPS: dict[str, Any] = {"teacher": teacher, "random": random, "baselines": baselines,
                         "plain": plain, "report": report}


def steps(p: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yields a parser for each step."""
    found = p.add_subparsers(dest="step", required=True)
    yield from (found.add_parser(name, description=function.__doc__)
                for name, function in STEPS.items())


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = benchmark_parser(__file__, __doc__)
    p.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10")
    p.add_argument("--run", type=Path, required=True, help="folder of cifar10_cpu.sh")
    p.add_argument("--vld_size", type=int, default=5000, help="the search's validation images")
    teacher_flags, random_flags, baseline_flags, *_ = steps(p)
    teacher_flags.add_argument("--weights", required=True, help="ImageNet's, of the package")
    teacher_flags.add_argument("--epochs", type=int, default=3, help="epochs (default: 3)")
    teacher_flags.add_argument("--lr", type=float, default=5e-4, help="rate (default: 5e-4)")
    random_flags.add_argument("--n", type=int, default=24, help="for each network (default: 24)")
    baseline_flags.add_argument("--epochs", type=int, default=20, help="epochs (default: 20)")
    baseline_flags.add_argument("--teacher_amp", choices=("bfloat16",), help="its precision")
    return p


def main(args: argparse.Namespace) -> None:
    """Runs a step."""
    if not (args.data / "train").is_dir():
        raise UserError(f"{args.data}: no folder with train/ and test/")
    STEPS[args.step](args)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
