"""Fine-tunes a network on CIFAR-10 or another small data set, on one device or many.

Small images are augmented at their own size and enlarged on the device; the evaluation resizes them
straight to the input resolution. Several processes: `SCRIPT=train_cifar.py sh
scripts/distributed_train.sh N DATA ...`.
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
from cli.types import count, number
from data_providers.flags import DATA_FLAGS
from data_providers.table import DATASETS
from networks.configs import SMALL_IMAGES, TRANSFORMS, choose_transform, read_config
from training import flags
from training.flags import add_network_flags, add_optimisation_flags, add_run_flags, log
from utils.errors import UserError
from utils.invocation import command_line

if TYPE_CHECKING:
    from data_providers import DataProvider
    from training.students import Networks
    from training.world import World

# The recipe of NSGANetV2 for small data sets.
# DEVIATION process-batch: --batch-size is that of a process, in the original that of all GPUs.
RECIPE = {"opt": "momentum", "momentum": 0.9, "weight_decay": 4e-5, "clip_grad": 5.0,
          "epochs": 150, "sched": "cosine", "drop": 0.2, "drop_path": 0.2}
# The evaluation transform of the recipe: whole images; random crops then have a border.
TRANSFORM = "squash"
# Names of the original.
ALIASES = {"--num_workers": "--workers", "--grad_clip": "--clip-grad",
           "--report_freq": "--log-interval", "--topk": "--checkpoint-hist",
           "--n_gpus": "--num-gpu"}


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command-line parser."""
    p = ConfigParser(prog="train_cifar.py", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("folder", nargs="?", default=None, metavar="DATA",
                   help="the folder of the data set, as --data")
    g = p.add_argument_group("data")
    add_flags(g, DATA_FLAGS, "--dataset", "--data", "--download", "--vld-size", "--max-damaged",
              dataset="cifar10")
    g.add_argument("-b", "--batch-size", type=count(1), default=96, help="images of each process")
    g.add_argument("-j", "--workers", type=count(0), default=2, help="loading processes of each")
    g.add_argument("--transform", choices=TRANSFORMS, default=None,
                   help="how images are evaluated: squash resizes them to r x r, crop cuts the "
                        f"centre of larger ones; None: {TRANSFORM} for {', '.join(SMALL_IMAGES)}, "
                        f"otherwise, and with --evaluate, the config's, else {TRANSFORM}")
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
    """Trains, or with --evaluate measures, or with --check only checks that it could."""
    args = checked(args)
    announce(f"loading {args.model_config} and the images")
    from training.tune import start

    start(args, "train_cifar.py", open_data, train)


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """Returns the flags with the data's folder under one name, and the network's config.

    Raises:
        UserError: flags are missing or contradict each other.
    """
    args = flags.checked(args, "save")
    if args.evaluate and not (args.initial_checkpoint or args.resume):
        raise UserError("--evaluate: needs --initial-checkpoint or --resume")
    if args.folder and args.data not in (None, args.folder):
        raise UserError(f"--data {args.data}: the folder {args.folder} was given too; give one")
    data = args.data or args.folder
    if data is not None and {"data", "folder"} & args.typed:
        DATASETS[args.dataset].refuse_folder(f"--data {data}")
    return argparse.Namespace(**vars(args) | {"data": data, "folder": None})


def open_data(args: argparse.Namespace, config: dict[str, Any],
              n_processes: int) -> "DataProvider":
    """Returns the images; any number of processes can share them."""
    from data_providers import DataProvider

    return DataProvider.of(args, args.workers, transform=transform_of(args, config),
                           mean=flags.flag_or_config(args, "mean", config),
                           std=flags.flag_or_config(args, "std", config))


def transform_of(args: argparse.Namespace, config: dict[str, Any]) -> str:
    """Returns the evaluation transform: what was typed, else that of the recipe or of a file.

    The small images are tuned by the recipe, whatever a search has recorded. A resumed run keeps
    what it began with.

    DEVIATION measured-transform: --evaluate takes what the config records; there it is squash.
    """
    own = Path(args.resume).with_name("net.config") if args.resume else None
    if own and own.is_file():
        config = read_config(own)
    elif not args.evaluate and args.transform is None and args.dataset in SMALL_IMAGES:
        if config.get("transform") not in (None, TRANSFORM):
            log.warning("%s records crop, the transform of the search; this tunes and scores with "
                        "squash, the paper's recipe; --transform crop keeps the search's",
                        args.model_config)
        return TRANSFORM
    return choose_transform(args.transform, config, args.dataset, args.model_config,
                            log.warning) or TRANSFORM


def train(args: argparse.Namespace, world: "World", provider: "DataProvider",
          networks: "Networks") -> None:
    """Trains in this process, which is one of `world`."""
    from torch.nn.functional import cross_entropy

    from training.resume import resume_run
    from training.run import Run
    from training.run_files import output_folder
    from training.small_images import make_batches
    from training.students import training_objective
    from training.tune import log_figures, saved_network, tune

    size, info = networks.resolution, provider.info
    title = f"{args.model}-{args.dataset}-{size}"
    folder = output_folder(args, args.save, title)
    batches = make_batches(args, provider, size, world)
    run = Run(args, networks.student, world, len(batches))
    history = resume_run(run, args.resume)

    def evaluate(split: str, net: Any) -> dict[str, float]:
        return run.evaluate(net, provider.eval_batches(
            split, size, device=world.device, rank=world.rank, world_size=world.size))

    if not args.evaluate:
        warn_about_the_best(provider)
        objective = training_objective(
            args, networks.teacher, partial(cross_entropy, label_smoothing=args.smoothing),
            lambda: provider.calibration_batches(size, device=world.device), world.device)
        tune(run, history, folder, networks, provider.facts(), batches, objective,
             partial(evaluate, "valid"), script="train_cifar.py")
    log_figures("test images", evaluate("test", saved_network(run, folder)), info.eval_resize)
    if folder and world.primary and not args.evaluate:
        from evaluator.tuned import write_tuned_hub

        write_tuned_hub(folder, provider, size, device=str(world.device), title=title,
                        command=command_line("train_cifar.py", get_args_parser(), vars(args)))


def warn_about_the_best(provider: "DataProvider") -> None:
    """Warns where the best epoch is chosen by the images that it is tested on."""
    from training.run import log

    if provider.images("valid") is provider.images("test"):
        log.warning("the best epoch is chosen by the test images, as in the original: its accuracy "
                    "is too high a figure; --vld-size N keeps N training images for the choice")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
