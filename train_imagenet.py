"""Fine-tunes a network with the ImageNet recipe, on one device or many.

Several processes: `sh scripts/distributed_train.sh N DATA --flags`. Everything that a finished
epoch left is kept, and `--resume` goes on from there.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.commands import command_line
from cli.config import ConfigParser
from cli.scripts import run_script
from cli.types import amount, count, number
from data_providers.table import DATASETS, N_CALIBRATION
from training.flags import add_network_flags, add_optimisation_flags, add_run_flags
from utils.errors import UserError

if TYPE_CHECKING:
    from data_providers import DataProvider
    from training.students import Networks
    from training.world import World

# Learning rate where none is given: this for each 256 images of a step.
LR_BASE, LR_BATCH = 0.006, 256
# What timm's script did, unasked, when the recipe was published.
WARMUP_EPOCHS = 3
IMAGENET_CLASSES = 1000


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command-line parser."""
    p = ConfigParser(prog="train_imagenet.py", description=__doc__.split("\n\n")[0])
    p.add_argument("data", metavar="DATA", help="folder with class folders in train/ and val/")
    _add_data_flags(p)
    add_network_flags(p)
    add_optimisation_flags(p)
    p.add_argument("--lr", type=number(0), default=None,
                   help=f"learning rate; None: {LR_BASE} for each {LR_BATCH} images of a step")
    add_run_flags(p)
    p.set_defaults(warmup_epochs=WARMUP_EPOCHS)
    p.add_argument("--output", default="runs/train", metavar="DIR",
                   help="a folder for the run is made in it")
    return p


def _add_data_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("data")
    g.add_argument("--dataset", choices=sorted(DATASETS), default=None,
                   help="data set; None: imagenet where the folder has 1,000 classes, else folder")
    g.add_argument("--vld-size", type=count(1), default=None,
                   help="training images to evaluate on; None: the validation images")
    g.add_argument("-b", "--batch-size", type=count(1), default=128, help="images of each process")
    g.add_argument("-vb", "--validation-batch-size", type=count(1), default=None,
                   help="the same for the evaluation; None: --batch-size")
    g.add_argument("-j", "--workers", type=count(0), default=4, help="loading processes of each")
    g.add_argument("--pin-mem", action="store_true", help="pin the memory of batches")
    g = p.add_argument_group("augmentation")
    g.add_argument("--no-aug", action="store_true", help="none: the evaluation's crop instead")
    g.add_argument("--scale", type=number(0, 1), nargs=2, default=[0.08, 1.0],
                   help="area of a crop")
    g.add_argument("--ratio", type=amount, nargs=2, default=[3 / 4, 4 / 3], help="its shape")
    g.add_argument("--hflip", type=number(0, 1), default=0.5,
                   help="probability of a horizontal flip")
    g.add_argument("--vflip", type=number(0, 1), default=0.0, help="probability of a vertical flip")
    g.add_argument("--color-jitter", type=number(0), default=0.4, help="jitter, without --aa")
    g.add_argument("--aa", default=None, metavar="POLICY",
                   help="timm's auto-augmentation, such as rand-m9-mstd0.5; None: none")
    g.add_argument("--train-interpolation", default="random",
                   choices=("random", "bilinear", "bicubic"), help="how crops are resized")
    g.add_argument("--reprob", type=number(0, 1), default=0.0, help="probability of random erasing")
    g.add_argument("--remode", choices=("const", "rand", "pixel"), default="pixel",
                   help="what fills the erased part")
    g.add_argument("--recount", type=count(1), default=1, help="parts erased")
    g.add_argument("--smoothing", type=number(0, 1), default=0.1, help="label smoothing")
    g.add_argument("--mixup", type=number(0), default=0.0, help="mixup alpha; 0: off")
    g.add_argument("--cutmix", type=number(0), default=0.0, help="cutmix alpha; 0: off")
    g.add_argument("--cutmix-minmax", type=number(0, 1), nargs=2, default=None,
                   help="cutmix between these sizes")
    g.add_argument("--mixup-prob", type=number(0, 1), default=1.0, help="probability of either")
    g.add_argument("--mixup-switch-prob", type=number(0, 1), default=0.5,
                   help="probability of cutmix where both are on")
    g.add_argument("--mixup-mode", choices=("batch", "pair", "elem"), default="batch",
                   help="how they are applied")
    g.add_argument("--mixup-off-epoch", type=count(0), default=0,
                   help="epoch that ends them; 0: none")


def main(args: argparse.Namespace) -> None:
    """Trains, or with --check only looks whether it could."""
    check_flags(args)
    from training.world import processes

    if args.check is not None:
        check(args)
        return
    with processes(args.device, args.threads) as world:
        train(args, world)


def check_flags(args: argparse.Namespace) -> None:
    """Raises UserError where flags are missing or contradict each other."""
    if not args.model_config:
        raise UserError("--model-config: name the net.config of the network to train")
    if not Path(args.data).is_dir():
        raise UserError(f"{args.data}: no such folder; give the one that holds train/ and val/")


def check(args: argparse.Namespace) -> None:
    """Raises UserError for whatever would keep `args.check` processes from training."""
    from training.fit import Run
    from training.students import resume_run
    from training.world import check_devices, lone_world

    check_devices(args.check, args.device)
    provider, networks = load_all(args)
    check_batch(args, provider.n_train, args.check)
    world = lone_world(args.device)
    resume_run(Run(with_lr(args, world), networks.student, world, 1), args.resume)


def check_batch(args: argparse.Namespace, n_images: int, n_processes: int) -> None:
    """Raises UserError where the training images do not fill one batch of each process."""
    if n_images < args.batch_size * n_processes:
        raise UserError(f"-b {args.batch_size}: with {n_processes} process(es) a step takes more "
                        f"than the {n_images} training images that there are")


def load_all(args: argparse.Namespace) -> tuple["DataProvider", "Networks"]:
    """Returns the data and the networks; raises UserError for whatever is wrong with them."""
    from training.students import load_networks

    provider = open_data(args, Path(args.data))
    return provider, load_networks(args, provider.n_classes)


def open_data(args: argparse.Namespace, data: Path) -> "DataProvider":
    """Returns the provider of the data's folder; see --dataset."""
    from data_providers import DataProvider

    name = args.dataset
    if name is None:
        folder = data / "train"
        classes = sum(entry.is_dir() for entry in folder.iterdir()) if folder.is_dir() else 0
        name = "imagenet" if classes == IMAGENET_CLASSES else "folder"
    return DataProvider(name, data, vld_size=args.vld_size, n_workers=args.workers)


def train(args: argparse.Namespace, world: "World") -> None:
    """Trains in this process, which is one of `world`."""
    from training.fit import Run, fit
    from training.loops import evaluate
    from training.output import Output, output_folder, start_logging
    from training.students import resume_run, write_pair

    provider, networks = load_all(args)
    size = networks.resolution
    folder = output_folder(args, args.output, f"{args.model}-{size}")
    start_logging(world)
    args = with_lr(args, world)
    n_classes = networks.student.classifier.out_features
    batches, validation = make_loaders(args, provider, size, world, n_classes)
    run = Run(args, networks.student, world, len(batches))
    history = resume_run(run, args.resume)
    objective = objective_of(args, networks, batches, world)
    output = Output(run, folder, lambda net, where: write_pair(
        net, where, size, provider.info.eval_resize))
    output.take_up(history, args.resume)
    fit(run, batches, objective, lambda n: evaluate(n, validation, amp=run.amp, reduce=world.sum),
        output, lambda epoch: set_epoch(args, batches, epoch))
    if world.primary:
        from evaluator.tuned import write_tuned_hub

        write_tuned_hub(folder, provider, size, provider.info.eval_resize,
                        device=str(world.device), title=f"{args.model}-{size}",
                        command=command_line("python train_imagenet.py", get_args_parser(),
                                             vars(args)))


def with_lr(args: argparse.Namespace, world: "World") -> argparse.Namespace:
    """Returns the flags with the learning rate by the rule of thumb where none is given."""
    from training.fit import log

    if args.lr is not None:
        return args
    images = args.batch_size * world.size * args.grad_accum_steps
    lr = images / LR_BATCH * LR_BASE
    log.info("learning rate %.5g by the rule of thumb: %d images a step / %d x %g", lr, images,
             LR_BATCH, LR_BASE)
    return argparse.Namespace(**vars(args) | {"lr": lr})


def make_loaders(args: argparse.Namespace, provider: "DataProvider", size: int, world: "World",
                 n_classes: int) -> tuple[Any, Any]:
    """Returns timm's loader of the training images, and that of the validation images.

    Each process gets its own part of both. The evaluation transform is the program's own.
    """
    from timm.data import FastCollateMixup, create_loader
    from timm.data.transforms import ToNumpy
    from torchvision.transforms import Compose

    from data_providers.datasets import LabelledDataset
    from data_providers.transforms import eval_geometry

    images, held_out = provider.images("train"), provider.images("valid")
    check_batch(args, len(images), world.size)
    shared = {"input_size": (3, size, size), "mean": provider.info.mean, "std": provider.info.std,
              "device": world.device, "num_workers": args.workers, "pin_memory": args.pin_mem,
              "persistent_workers": False}
    mixup = FastCollateMixup(
        mixup_alpha=args.mixup, cutmix_alpha=args.cutmix, cutmix_minmax=args.cutmix_minmax,
        prob=args.mixup_prob, switch_prob=args.mixup_switch_prob, mode=args.mixup_mode,
        label_smoothing=args.smoothing, num_classes=n_classes) if uses_mixup(args) else None
    train = create_loader(
        LabelledDataset(images), batch_size=args.batch_size, is_training=True, no_aug=args.no_aug,
        re_prob=args.reprob, re_mode=args.remode, re_count=args.recount, scale=args.scale,
        ratio=args.ratio, hflip=args.hflip, vflip=args.vflip, color_jitter=args.color_jitter,
        auto_augment=args.aa, interpolation=args.train_interpolation, collate_fn=mixup,
        distributed=world.size > 1, **shared)
    part = held_out.subset(range(world.rank, len(held_out), world.size))
    validation = create_loader(
        LabelledDataset(part), batch_size=args.validation_batch_size or args.batch_size,
        is_training=False, **shared)
    validation.dataset.transform = Compose([*eval_geometry(provider.info, size).transforms,
                                            ToNumpy()])
    return train, validation


def uses_mixup(args: argparse.Namespace) -> bool:
    """Whether the labels of a batch are mixed."""
    return args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None


def set_epoch(args: argparse.Namespace, batches: Any, epoch: int) -> None:
    """Prepares the training loader for an epoch."""
    if hasattr(batches.sampler, "set_epoch"):
        batches.sampler.set_epoch(epoch)
    if args.mixup_off_epoch and epoch >= args.mixup_off_epoch:
        batches.mixup_enabled = False


def objective_of(args: argparse.Namespace, networks: "Networks", batches: Any,
                 world: "World") -> Any:
    """Returns what is minimised; a supernet that teaches is calibrated on training images."""
    from functools import partial

    from timm.utils import distribute_bn, random_seed
    from torch.nn.functional import cross_entropy

    from training.students import first_images, training_objective

    random_seed(args.seed, world.rank)
    set_epoch(args, batches, 0)
    n_batches = -(-N_CALIBRATION // (args.batch_size * world.size))
    criterion = partial(cross_entropy, label_smoothing=0.0 if uses_mixup(args) else args.smoothing)
    objective = training_objective(networks.teacher, args.kd_ratio, criterion,
                                   lambda: first_images(batches, n_batches), world.device)
    if networks.teacher and world.size > 1:
        distribute_bn(networks.teacher.net, world.size, reduce=True)
    return objective


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
