"""Fine-tunes a network with the ImageNet recipe, on one device or many.

Several processes: `sh scripts/distributed_train.sh N DATA ...`. Everything that a finished
epoch left is kept, and `--resume` goes on from there.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cli.startup  # noqa: F401  # before what takes time to import

from cli.commands import command_line
from cli.config import ConfigParser
from cli.scripts import add_flags, run_script
from cli.types import amount, count, number
from data_providers.flags import DATA_FLAGS
from data_providers.table import DATASETS, N_CALIBRATION
from training import flags
from training.flags import (
    add_network_flags,
    add_optimisation_flags,
    add_run_flags,
    check_name,
    check_processes,
)
from utils.errors import UserError

if TYPE_CHECKING:
    from training.sources import Source
    from training.students import Networks
    from training.world import World

# Learning rate where none is given: this for each 256 images of a step.
LR_BASE, LR_BATCH = 0.006, 256
# What the original's script did, unasked, when the recipe was published.
# DEVIATION: --dist-bn reduce, not '': what is evaluated on all processes is what is kept; the
# learning rate follows the batch; --epochs counts all epochs, without 10 more to cool down.
DEFAULTS = {"opt": "sgd", "weight_decay": 1e-4, "sched": "step", "epochs": 200, "warmup_lr": 1e-4,
            "min_lr": 1e-5, "decay_epochs": 30, "decay_rate": 0.1, "warmup_epochs": 3,
            "model_ema_decay": 0.9998}
# -vb was a multiplier once: no batch is as small as that.
LEAST_VALIDATION_BATCH = 8


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
    p.set_defaults(**DEFAULTS)
    p.add_argument("--output", default="runs/train", metavar="DIR",
                   help="a folder for the run is made in it")
    return p


def _add_data_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("data")
    g.add_argument("--dataset", type=check_name, default=None, metavar="NAME",
                   help=f"{', '.join(sorted(DATASETS))}; tar: an archive of class folders for each "
                        "split; hfds/NAME or wds/NAME: timm's readers; None: tar where there is "
                        "one, imagenet where the folder has 1,000 classes, else folder")
    add_flags(g, DATA_FLAGS, "--download", "--vld-size", "--max-damaged")
    g.add_argument("--train-split", default="train", metavar="NAME",
                   help="split to train on, of tar, hfds and wds")
    g.add_argument("--val-split", default="val", metavar="NAME", help="split to evaluate on")
    g.add_argument("--train-num-samples", type=count(1, 10**9), default=None, metavar="N",
                   help="images to train on, of a wds split that does not say")
    g.add_argument("--val-num-samples", type=count(1, 10**9), default=None, metavar="N",
                   help="images to evaluate on likewise")
    g.add_argument("-b", "--batch-size", type=count(1), default=32, help="images of each process")
    g.add_argument("-vb", "--validation-batch-size", type=count(1), default=None,
                   help="the same for the evaluation; None: --batch-size")
    g.add_argument("-j", "--workers", type=count(0), default=4, help="loading processes of each")
    g.add_argument("--pin-mem", action="store_true",
                   help="pin the memory of batches; on GPUs it always is")
    g.add_argument("--crop-pct", type=number(0.01, 1), default=None, metavar="P",
                   help="the evaluation's crop as a part of the image, by timm's transform; None: "
                        "0.875, by the program's own")
    g.add_argument("--interpolation", choices=("bilinear", "bicubic"), default=None,
                   help="how the evaluation's images are resized; None: bilinear")
    g.add_argument("--tta", type=count(0, 2), default=0, metavar="N",
                   help="2: the evaluation takes the mean over each image and its mirror image")
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
    g.add_argument("--remode", choices=("const", "rand", "pixel"), default="const",
                   help="what fills the erased part")
    g.add_argument("--recount", type=count(1), default=1, help="parts erased")
    g.add_argument("--resplit", action="store_true",
                   help="erase nothing in the first, clean part of --aug-splits")
    g.add_argument("--aug-splits", type=count(0, 16), default=0, metavar="N",
                   help="differently augmented copies of each image in a batch; 0: none")
    g.add_argument("--aug-repeats", type=count(0, 16), default=0, metavar="N",
                   help="times that an image comes in an epoch, on several processes; 0: once")
    g.add_argument("--jsd", "--jsd-loss", action="store_true",
                   help="let the copies of --aug-splits agree (AugMix)")
    g.add_argument("--bce-loss", action="store_true", help="binary cross-entropy for each class")
    g.add_argument("--bce-sum", action="store_true", help="its sum over the classes, not the mean")
    g.add_argument("--bce-target-thresh", type=number(0, 1), default=None, metavar="P",
                   help="take mixed labels above this as 1, the others as 0")
    g.add_argument("--bce-pos-weight", type=amount, default=None, metavar="W",
                   help="weight of the right class")
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
    args = flags.with_config(args)
    check_flags(args)
    from training.world import processes

    if args.check is not None:
        check(args)
        return
    with processes(args.device, args.threads) as world:
        check_processes(args, world.size)
        train(args, world)


def check_flags(args: argparse.Namespace) -> None:
    """Raises UserError where flags are missing or contradict each other."""
    flags.check_flags(args)
    flags.check_resumed(args, "output")
    if not Path(args.data).is_dir() and not args.download:
        raise UserError(f"{args.data}: no such folder; give the one that holds train/ and val/")
    if (args.validation_batch_size or LEAST_VALIDATION_BATCH) < LEAST_VALIDATION_BATCH:
        raise UserError(f"-vb {args.validation_batch_size}: the images of a batch in the "
                        "evaluation, and not how many times --batch-size, which it meant in the "
                        f"original; give {LEAST_VALIDATION_BATCH} or more, or leave it out")


def check(args: argparse.Namespace) -> None:
    """Raises UserError for whatever would keep `args.check` processes from training."""
    from training.run import Run
    from training.students import resume_run
    from training.world import check_devices, lone_world

    check_processes(args, args.check)
    check_devices(args.check, args.device)
    source, networks = load_all(args)
    check_batch(args, source.n_train, args.check)
    world = lone_world(args.device)
    resume_run(Run(with_lr(args, world), networks.student, world, 1), args.resume)


def check_batch(args: argparse.Namespace, n_images: int, n_processes: int) -> None:
    """Raises UserError where the training images do not fill one batch of each process."""
    if n_images < args.batch_size * n_processes:
        raise UserError(f"-b {args.batch_size}: with {n_processes} process(es) a step takes more "
                        f"than the {n_images} training images that there are")
    if args.aug_repeats and n_processes == 1:
        raise UserError("--aug-repeats: works on several processes only; start them with "
                        "scripts/distributed_train.sh")


def load_all(args: argparse.Namespace) -> tuple["Source", "Networks"]:
    """Returns the data and the networks; raises UserError for whatever is wrong with them."""
    from networks import read_config
    from networks.supernet_info import SupernetMeta
    from training.losses import check_loss
    from training.sources import open_source
    from training.students import check_teacher, load_networks

    check_loss(args)
    config = read_config(args.model_config)
    SupernetMeta.of_config(config, args.model_config)
    if args.teacher:
        check_teacher(args.teacher, args.teacher_checkpoint)
    source = open_source(args, config)
    return source, load_networks(args, config, source.n_classes, source.facts()["class_names"])


def train(args: argparse.Namespace, world: "World") -> None:
    """Trains in this process, which is one of `world`."""
    from training.loops import Mirrored, evaluate
    from training.resume import telling_how
    from training.run import Run, fit
    from training.run_files import Output, log_start, output_folder, start_logging
    from training.students import resume_run, write_pair
    from training.timm_loaders import Watched, make_loaders, set_epoch

    start_logging(world)
    source, networks = load_all(args)
    size = networks.resolution
    folder = output_folder(args, args.output, f"{args.model}-{size}")
    args = with_lr(args, world)
    check_batch(args, source.n_train, world.size)
    batches, validation = make_loaders(args, source, size, world, n_outputs(networks))
    run = Run(args, networks.student, world, len(batches))

    def measure(net: Any) -> dict[str, float]:
        net = Mirrored(net) if args.tta == 2 else net
        return evaluate(net, validation, amp=run.amp, reduce=world.sum, progress=world.progress)

    history = resume_run(run, args.resume)
    objective = objective_of(args, networks, batches, world)
    facts = source.facts()
    with (Output(run, folder, lambda net, where: write_pair(net, where, networks, facts)) as output,
          telling_how(output, "train_imagenet.py", args.data)):
        output.take_up(history, args.resume)
        log_start(run, measure, source.info.eval_resize)
        fit(run, Watched(batches, source.train, args.max_damaged), objective, measure, output,
            lambda epoch: set_epoch(args, batches, epoch))
    if world.primary and source.provider:
        from evaluator.tuned import write_tuned_hub

        write_tuned_hub(folder, source.provider, size, source.info.eval_resize,
                        device=str(world.device), title=f"{args.model}-{size}",
                        command=command_line("train_imagenet.py", get_args_parser(),
                                             vars(args)))


def n_outputs(networks: "Networks") -> int:
    """Returns the number of classes that the network tells apart."""
    student: Any = networks.student
    return int(student.classifier.out_features)


def with_lr(args: argparse.Namespace, world: "World") -> argparse.Namespace:
    """Returns the flags with the learning rate by the rule of thumb where none is given."""
    from training.run import log

    if args.lr is not None:
        return args
    images = args.batch_size * world.size * args.grad_accum_steps
    lr = images / LR_BATCH * LR_BASE
    log.info("learning rate %.5g by the rule of thumb: %d images a step / %d x %g", lr, images,
             LR_BATCH, LR_BASE)
    return argparse.Namespace(**vars(args) | {"lr": lr})


def objective_of(args: argparse.Namespace, networks: "Networks", batches: Any,
                 world: "World") -> Any:
    """Returns what is minimised; a supernet that teaches is calibrated on training images."""
    from timm.utils import random_seed

    from training.losses import make_criterion
    from training.students import first_images, training_objective
    from training.timm_loaders import set_epoch, uses_mixup

    random_seed(args.seed, world.rank)
    set_epoch(args, batches, 0)
    n_batches = -(-N_CALIBRATION // (args.batch_size * world.size))
    objective = training_objective(args, networks.teacher, make_criterion(args, uses_mixup(args)),
                                   lambda: first_images(batches, n_batches), world.device)
    if networks.teacher:
        world.share_bn(networks.teacher.net, "reduce")
    return objective


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
