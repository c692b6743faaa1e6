"""Fine-tunes a network with the ImageNet recipe, on one device or many.

Several processes: `sh scripts/distributed_train.sh N DATA ...`. Finished epochs are kept,
and `--resume` continues after them.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

# With `python -P` or PYTHONSAFEPATH=1, Python does not put a script's folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import cli.startup  # noqa: F401  # before what takes time to import

from cli.config import ConfigParser
from cli.progress import announce
from cli.scripts import add_flags, run_script
from cli.types import amount, count, number
from data_providers.flags import DATA_FLAGS
from data_providers.table import DATASETS, N_CALIBRATION
from training import flags
from utils.errors import UserError
from utils.invocation import command_line

if TYPE_CHECKING:
    from training.sources import ImageSource
    from training.students import Networks
    from training.world import World

# The defaults of the original's script when the recipe was published.
# DEVIATION imagenet-defaults: --dist-bn reduce, not '': what is evaluated on all processes is what
# is kept; the learning rate follows the batch; --epochs counts all epochs, without 10 more to cool
# down.
DEFAULTS = {"opt": "sgd", "weight_decay": 1e-4, "sched": "step", "epochs": 200, "warmup_lr": 1e-4,
            "min_lr": 1e-5, "decay_epochs": 30, "decay_rate": 0.1, "warmup_epochs": 3,
            "model_ema_decay": 0.9998}
# -vb was a multiplier once: no batch is as small as that.
LEAST_VALIDATION_BATCH = 8


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command-line parser."""
    p = ConfigParser(prog="train_imagenet.py", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("data", metavar="DATA", help="folder with class folders in train/ and val/")
    _add_data_flags(p)
    flags.add_network_flags(p)
    flags.add_optimisation_flags(p)
    p.add_argument("--lr", type=number(0), default=None,
                   help=f"learning rate; None: {flags.LR_BASE} for each {flags.LR_BATCH} images of "
                   "a step")
    flags.add_run_flags(p)
    p.set_defaults(**DEFAULTS)
    p.add_argument("--output", default="runs/train", metavar="DIR",
                   help="a folder for the run is made in it")
    return p


def _add_data_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("data")
    g.add_argument("--dataset", type=flags.check_name, default=None, metavar="NAME",
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
                   help="times that an image is used in an epoch, on several processes; 0: once")
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
    """Trains, or with --check only checks that it could."""
    args = checked(args)
    announce(f"loading {args.model_config} and the images")
    from training.tune import start

    start(args, "train_imagenet.py", open_data, train)


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """Returns the flags; raises UserError where some are missing or contradict each other."""
    args = flags.checked(args, "output")
    flags.check_loss(args)
    if not Path(args.data).is_dir() and not args.download:
        raise UserError(f"{args.data}: no such folder; give the one that holds train/ and val/")
    if args.dataset in DATASETS:
        DATASETS[args.dataset].refuse_folder(args.data)
    if (args.validation_batch_size or LEAST_VALIDATION_BATCH) < LEAST_VALIDATION_BATCH:
        raise UserError(f"-vb {args.validation_batch_size}: the number of images in a batch of the "
                        "evaluation, and not a multiple of --batch-size, as in the original; "
                        f"give {LEAST_VALIDATION_BATCH} or more, or leave it out")
    return args


def open_data(args: argparse.Namespace, config: dict[str, Any], n_processes: int) -> "ImageSource":
    """Returns the images; raises UserError where there are none, or too few for the processes."""
    from training.sources import open_source

    source = open_source(args, config)
    check_batch(args, source.n_train, n_processes)
    return source


def check_batch(args: argparse.Namespace, n_images: int, n_processes: int) -> None:
    """Raises UserError where the training images do not fill one batch of each process."""
    if n_images < args.batch_size * n_processes:
        raise UserError(f"-b {args.batch_size}: with {n_processes} process(es) a step takes more "
                        f"than the {n_images} training images that there are")
    if args.aug_repeats and n_processes == 1:
        raise UserError("--aug-repeats: works on several processes only; start them with "
                        "scripts/distributed_train.sh")


def train(args: argparse.Namespace, world: "World", source: "ImageSource",
          networks: "Networks") -> None:
    """Trains in this process, which is one of `world`."""
    from training.loops import Mirrored
    from training.resume import resume_run
    from training.run import Run
    from training.run_files import output_folder
    from training.timm_loaders import make_loaders
    from training.tune import tune

    size, student = networks.resolution, networks.student
    title = f"{args.model}-{size}"
    folder = output_folder(args, args.output, title)
    batches, validation = make_loaders(args, source, size, world, student.classifier.out_features)
    run = Run(args, student, world, len(batches))

    def evaluate(net: Any) -> dict[str, float]:
        return run.evaluate(Mirrored(net) if args.tta == 2 else net, validation)

    history = resume_run(run, args.resume)
    objective = objective_of(args, networks, batches, world)
    tune(run, history, folder, networks, source.facts(), batches, objective, evaluate,
         script="train_imagenet.py", data=args.data)
    if folder and world.primary and source.provider:
        from evaluator.tuned import write_tuned_hub

        write_tuned_hub(folder, source.provider, size, device=str(world.device), title=title,
                        command=command_line("train_imagenet.py", get_args_parser(),
                                             vars(run.args)))


def objective_of(args: argparse.Namespace, networks: "Networks", batches: Any,
                 world: "World") -> Any:
    """Returns what is minimised; a supernet that teaches is calibrated on training images."""
    from timm.utils import random_seed

    from training.losses import make_criterion
    from training.students import first_images, training_objective

    random_seed(args.seed, world.rank)
    batches.set_epoch(0)
    n_batches = -(-N_CALIBRATION // (args.batch_size * world.size))
    objective = training_objective(
        args, networks.teacher, make_criterion(args, flags.mixes_labels(args)),
        partial(first_images, batches, n_batches), world.device)
    if networks.teacher:
        world.share_bn(networks.teacher.net, "reduce")
    return objective


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
