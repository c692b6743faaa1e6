"""Fine-tunes a network on CIFAR-10 or another small data set, on one device or many.

Small images are augmented at their own size and enlarged on the device; the evaluation resizes them
straight to the input resolution. Several processes: `SCRIPT=train_cifar.py sh
scripts/distributed_train.sh N DATA ...`.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cli.startup  # noqa: F401  # before what takes time to import

from cli.commands import command_line
from cli.config import ConfigParser
from cli.scripts import add_flags, run_script
from cli.types import count, number
from data_providers.flags import DATA_FLAGS
from training.flags import (
    add_network_flags,
    add_optimisation_flags,
    add_run_flags,
    check_flags,
    check_processes,
    check_resumed,
    with_config,
)
from utils.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from data_providers import DataProvider
    from training.run import Run
    from training.students import Networks
    from training.world import World

# Data sets whose images are cropped at their own size; the others are cropped at the resolution.
NATIVE_SIZE = {"cifar10": 32, "cifar100": 32, "cinic10": 32}
CROP_PADDING = 4
# Grey, where AutoAugment moves an image away; as in the original.
AUTOAUGMENT_FILL = [128, 128, 128]
# The recipe of NSGANetV2 for small data sets.
RECIPE = {"opt": "momentum", "momentum": 0.9, "weight_decay": 4e-5, "clip_grad": 5.0,
          "epochs": 150, "sched": "cosine", "drop": 0.2, "drop_path": 0.2}
# The evaluation transform where neither a flag nor the network's config names one.
TRANSFORM = "squash"
# Names of the original.
ALIASES = {"--num_workers": "--workers", "--grad_clip": "--clip-grad",
           "--report_freq": "--log-interval", "--topk": "--checkpoint-hist",
           "--n_gpus": "--num-gpu"}


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command-line parser."""
    p = ConfigParser(prog="train_cifar.py", description=__doc__.split("\n\n")[0])
    p.add_argument("folder", nargs="?", default=None, metavar="DATA",
                   help="the folder of the data set, as --data")
    g = p.add_argument_group("data")
    add_flags(g, DATA_FLAGS, "--dataset", "--data", "--download", "--vld-size", "--max-damaged",
              dataset="cifar10")
    g.add_argument("-b", "--batch-size", type=count(1), default=96, help="images of each process")
    g.add_argument("-j", "--workers", type=count(0), default=2, help="loading processes of each")
    g.add_argument("--transform", choices=("crop", "squash"), default=None,
                   help="how images are evaluated: squash resizes them to r x r, crop cuts the "
                        f"centre of larger ones; None: the config's, else {TRANSFORM}")
    g = p.add_argument_group("augmentation")
    g.add_argument("--autoaugment", nargs="?", const="cifar10", default=None,
                   choices=("cifar10", "imagenet", "svhn"),
                   help="torchvision's AutoAugment; its policy defaults to cifar10")
    g.add_argument("--cutout", action="store_true", help="blank a square of each image")
    g.add_argument("--cutout-length", type=count(1), default=16,
                   help="its side, in pixels before the images are enlarged")
    g.add_argument("--smoothing", type=number(0, 1), default=0.0, help="label smoothing")
    add_network_flags(p)
    add_optimisation_flags(p)
    p.add_argument("--lr", type=number(0), default=0.01, help="learning rate")
    add_run_flags(p)
    p.set_defaults(**RECIPE)
    p.add_argument("--save", nargs="?", const="runs/train", default=None, metavar="DIR",
                   help="keep checkpoints and logs in a new folder in DIR (runs/train if none is "
                        "named); None: keep nothing")
    p.add_argument("--evaluate", action="store_true",
                   help="only measure the network (--initial-checkpoint or --resume)")
    p.add_aliases(ALIASES)
    return p


def main(args: argparse.Namespace) -> None:
    """Trains, or with --evaluate measures, or with --check only looks whether it could."""
    args = checked(args)
    from training.world import processes

    if args.check is not None:
        check(args)
        return
    with processes(args.device, args.threads) as world:
        check_processes(args, world.size, "train_cifar.py")
        train(args, world)


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """Returns the flags with the data's folder under one name, and the network's config.

    Raises:
        UserError: flags are missing or contradict each other.
    """
    args = with_config(args)
    check_flags(args)
    check_resumed(args, "save")
    if args.evaluate and not (args.initial_checkpoint or args.resume):
        raise UserError("--evaluate: needs --initial-checkpoint or --resume")
    if args.folder and args.data not in (None, args.folder):
        raise UserError(f"--data {args.data}: the folder {args.folder} was given too; give one")
    return argparse.Namespace(**vars(args) | {"data": args.data or args.folder, "folder": None})


def check(args: argparse.Namespace) -> None:
    """Raises UserError for whatever would keep `args.check` processes from training."""
    from training.run import Run
    from training.students import resume_run
    from training.world import check_devices, lone_world

    check_processes(args, args.check, "train_cifar.py")
    check_devices(args.check, args.device)
    _, networks = load_all(args)
    resume_run(Run(args, networks.student, lone_world(args.device), 1), args.resume)


def load_all(args: argparse.Namespace) -> tuple["DataProvider", "Networks"]:
    """Returns the data and the networks; raises UserError for whatever is wrong with them."""
    from data_providers import DataProvider
    from networks import read_config
    from networks.supernet_info import SupernetMeta
    from training.students import check_teacher, load_networks, settled

    config = read_config(args.model_config)
    SupernetMeta.of_config(config, args.model_config)
    if args.teacher:
        check_teacher(args.teacher, args.teacher_checkpoint)
    mean, std = (settled(args, name, config.get(name)) for name in ("mean", "std"))
    provider = DataProvider(
        args.dataset, args.data, vld_size=args.vld_size, seed=args.seed, n_workers=args.workers,
        transform=settled(args, "transform", config.get("transform")) or TRANSFORM,
        mean=mean and tuple(mean), std=std and tuple(std), download=args.download,
        max_damaged=args.max_damaged)
    return provider, load_networks(args, config, provider.n_classes,
                                   provider.facts()["class_names"])


def train(args: argparse.Namespace, world: "World") -> None:
    """Trains in this process, which is one of `world`."""
    from functools import partial

    from torch.nn.functional import cross_entropy

    from training.resume import telling_how
    from training.run import Run, fit
    from training.run_files import Output, log_start, output_folder, start_logging
    from training.students import resume_run, training_objective, write_pair

    start_logging(world)
    provider, networks = load_all(args)
    size = networks.resolution
    root = args.save or args.resume
    folder = output_folder(args, root, f"{args.model}-{args.dataset}-{size}") if root else None
    batches = make_batches(args, provider, size, world)
    run = Run(args, networks.student, world, len(batches))
    history = resume_run(run, args.resume)
    if args.evaluate:
        log_accuracy(run, provider, size)
        return
    say_what_judges(provider)
    objective = training_objective(
        args, networks.teacher, partial(cross_entropy, label_smoothing=args.smoothing),
        lambda: provider.calibration_batches(size, device=world.device), world.device)
    measured = partial(measure, run, provider=provider, split="valid", size=size)
    facts = provider.facts()
    with (Output(run, folder, lambda net, where: write_pair(net, where, networks, facts)) as output,
          telling_how(output, "train_cifar.py")):
        output.take_up(history, args.resume)
        log_start(run, measured, provider.info.eval_resize)
        fit(run, batches, objective, measured, output, batches.set_epoch)
    log_accuracy(run, provider, size)
    if folder and world.primary:
        from evaluator.tuned import write_tuned_hub

        write_tuned_hub(folder, provider, size, provider.info.eval_resize, device=str(world.device),
                        title=f"{args.model}-{args.dataset}-{size}",
                        command=command_line("train_cifar.py", get_args_parser(),
                                             vars(args)))


def say_what_judges(provider: "DataProvider") -> None:
    """Warns where the best epoch is chosen by the images that it is tested on."""
    from training.run import log

    if provider.images("valid") is provider.images("test"):
        log.warning("the best epoch is chosen by the test images, as in the original: its accuracy "
                    "is too high a figure; --vld-size N holds N training images back for that")


def make_batches(args: argparse.Namespace, provider: "DataProvider", size: int,
                 world: "World") -> "Enlarged":
    """Returns the training batches of this process, on its device, `size` pixels wide."""
    native = NATIVE_SIZE.get(args.dataset)
    batches = provider.train_loader(
        size, args.batch_size, drop_last=provider.n_train >= args.batch_size * world.size,
        rank=world.rank, world_size=world.size, device=world.device,
        transform=geometry(args, provider, native, size))
    cutout_length = args.cutout_length if args.cutout else 0
    black = [-mean / std for mean, std in zip(provider.info.mean, provider.info.std, strict=True)]
    return Enlarged(batches, size, cutout_length, args.seed, world.rank, black)


def geometry(args: argparse.Namespace, provider: "DataProvider", native: int | None,
             size: int) -> Any:
    """Returns the training transform, PIL -> PIL: crop, flip, AutoAugment.

    Things are as large as in the evaluation: where that cuts the centre out and enlarges it, the
    random crops have the size of the centre; the original's, which does not, are padded.
    """
    from torchvision import transforms as tv

    from data_providers.transforms import CROP_RATIO, train_geometry

    if not native:
        steps = [train_geometry(provider.info, size)]
    elif provider.info.eval_resize == "crop":
        steps = [tv.RandomCrop(round(native * CROP_RATIO)), tv.RandomHorizontalFlip()]
    else:
        steps = [tv.RandomCrop(native, padding=CROP_PADDING), tv.RandomHorizontalFlip()]
    if args.autoaugment:
        steps.append(tv.AutoAugment(tv.AutoAugmentPolicy(args.autoaugment), fill=AUTOAUGMENT_FILL))
    return tv.Compose(steps)


class Enlarged:
    """Training batches after Cutout and bicubic up-sampling, both on the device.

    Args:
        batches: normalised images (b, 3, s, s) and labels, with `len` and `set_epoch`.
        size: r, in pixels.
        cutout_length: side of the blank square; 0 for none.
        seed, rank: with the epoch they decide where the squares lie.
        black: what a black pixel is after normalisation, one value for each channel.
    """

    def __init__(self, batches: Any, size: int, cutout_length: int, seed: int, rank: int,
                 black: Sequence[float]) -> None:
        self.batches, self.size, self.cutout_length = batches, size, cutout_length
        self.black = black
        self.seed, self.rank, self.epoch = seed, rank, 0

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next pass."""
        self.epoch = epoch
        self.batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple["Tensor", "Tensor"]]:
        import torch
        from torch.nn.functional import interpolate

        key = hash((self.seed, self.epoch, self.rank)) % 2**63
        generator = torch.Generator().manual_seed(key)
        for images, labels in self.batches:
            if self.cutout_length:
                images = cutout(images, self.cutout_length, generator, self.black)
            if images.shape[-1] != self.size:
                images = interpolate(images, size=self.size, mode="bicubic", align_corners=False)
            yield images, labels


def cutout(images: "Tensor", length: int, generator: Any,
           fill: Sequence[float]) -> "Tensor":
    """Sets a square of each normalised image (b, 3, h, w) to `fill` (3,); returns a new tensor.

    The original blanks before it normalises: its square is black. The centre is uniform over the
    image, so that the square may reach over the edge. Source: Cutout (DeVries and Taylor, 2017).
    """
    import torch

    b, _, height, width = images.shape
    masks = []
    for size in (height, width):
        centre = torch.randint(size, (b, 1), generator=generator)
        offset = torch.arange(size) - (centre - length // 2)
        masks.append((offset >= 0) & (offset < length))
    hole = masks[0][:, None, :, None] & masks[1][:, None, None, :]
    colour = torch.tensor(fill, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return torch.where(hole.to(images.device), colour, images)


def measure(run: "Run", net: Any, provider: "DataProvider", split: str,
            size: int) -> dict[str, float]:
    """Returns loss, top-1 and top-5 of a network; each process evaluates every n-th batch."""
    from training.loops import evaluate

    world = run.world
    batches = provider.eval_batches(split, size, device=world.device, rank=world.rank,
                                    world_size=world.size)
    return evaluate(net, batches, amp=run.amp, reduce=world.sum, progress=world.progress)


def log_accuracy(run: "Run", provider: "DataProvider", size: int) -> None:
    """Logs what the network reaches on the test images."""
    from training.run import log

    figures = measure(run, run.placed(run.best), provider, "test", size)
    log.info("test images: top1 %.4f, top5 %.4f, loss %.5f (%d images, %s)", figures["top1"],
             figures["top5"], figures["loss"], figures["n_images"], provider.info.eval_resize)


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
