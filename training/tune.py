"""A fine-tuning from the flags to the files: what train_cifar.py and train_imagenet.py share."""

import argparse
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from networks.checkpoints import load_weights
from networks.configs import Config, read_config
from networks.supernet_info import SupernetInfo
from training.checkpoints import History
from training.flags import check_processes
from training.loops import CountedBatches, Objective
from training.resume import resume_run, resuming
from training.run import Evaluation, Run
from training.run_files import Output, start_logging
from training.students import Networks, check_teacher, load_networks, write_pair
from training.world import World, check_devices, processes
from utils.devices import default_device

log = logging.getLogger("train")


class Epochs(CountedBatches, Protocol):
    """Batches of (images, labels); one pass is an epoch of this process."""

    def set_epoch(self, epoch: int) -> None:
        """Prepares the next pass."""
        ...


# (flags, the network's config, number of processes) -> a `DataProvider` or an `ImageSource`
Opener = Callable[[argparse.Namespace, Config, int], Any]


def start(args: argparse.Namespace, script: str, open_data: Opener,
          train: Callable[[argparse.Namespace, World, Any, Networks], object]) -> None:
    """Trains in the processes of a launcher, or with --check only checks that it could.

    Args:
        args: the flags, checked.
        script: the command, such as `train_cifar.py`.
        open_data: opens the images.
        train: trains in this process, which is one of the world.

    Raises:
        UserError: whatever is wrong with flags and files.
    """
    if args.check is not None:
        check_processes(args, args.check, script)
        check_devices(args.check, args.device)
        _, networks = load_all(args, open_data, args.check)
        alone = World(torch.device(default_device(args.device)))
        resume_run(Run(args, networks.student, alone, 1), args.resume)
        return
    with processes(args.device, args.threads) as world:
        check_processes(args, world.size, script)
        start_logging(world)
        train(args, world, *load_all(args, open_data, world.size))


def load_all(args: argparse.Namespace, open_data: Opener,
             n_processes: int = 1) -> tuple[Any, Networks]:
    """Returns the images and the networks; raises UserError for whatever is wrong with them."""
    config = read_config(args.model_config)
    SupernetInfo.of_config(config, args.model_config)
    if args.teacher:
        check_teacher(args.teacher, args.teacher_checkpoint)
    data = open_data(args, config, n_processes)
    return data, load_networks(args, config, data.n_classes, data.facts()["class_names"])


def tune(run: Run, history: History | None, folder: Path | None, networks: Networks,
         facts: dict[str, Any], batches: Epochs, objective: Objective, evaluate: Evaluation, *,
         script: str, data: str | None = None) -> None:
    """Trains to the last epoch; the folder then holds the best network and the checkpoints.

    Args:
        run: what is trained.
        history: what `resume_run` returned.
        folder: of the run; None writes nothing.
        networks: what the training began with.
        facts: what the network's file records of its images: `DataProvider.facts`.
        batches: to train on.
        objective: see `training.loops`.
        evaluate: returns `loss`, `top1`, `top5` of a network over all processes.
        script: the command, such as `train_cifar.py`.
        data: a folder that must be typed again when the run is resumed.
    """
    with (Output(run, folder, lambda net, where: write_pair(net, where, networks, facts)) as output,
          resuming(output, script, data)):
        output.resume(history, run.args.resume)
        if not run.start_epoch:
            log.info("measuring the network before its training")
            log_figures("before training", evaluate(run.placed(run.best)), facts["transform"])
        fit(run, batches, objective, evaluate, output)


def fit(run: Run, batches: Epochs, objective: Objective, evaluate: Evaluation,
        output: Output) -> None:
    """Trains to the last epoch; after each, evaluates and writes. Arguments are those of `tune`."""
    if run.start_epoch >= run.n_epochs:
        log.info("all %d epochs are done; add some with --epochs", run.n_epochs)
    for epoch in range(run.start_epoch, run.n_epochs):
        batches.set_epoch(epoch)
        lr = run.optimizer.param_groups[0]["lr"]
        train = run.train_one_epoch(epoch, run.world.progress(batches), objective,
                                    partial(output.on_step, epoch))
        wanted = (epoch + 1) % run.args.val_interval == 0 or epoch + 1 == run.n_epochs
        evaluation = evaluate_run(run, evaluate) if wanted else {}
        output.on_epoch(epoch, train, evaluation, lr)
        run.scheduler.step(epoch + 1, evaluation.get(run.args.eval_metric))


def evaluate_run(run: Run, evaluate: Evaluation) -> dict[str, float]:
    """Returns the figures of the network that counts, and of the plain one under `..._plain`."""
    nets = {"": run.placed(run.best)} | ({"_plain": run.net} if run.ema else {})
    return {f"{key}{suffix}": value for suffix, net in nets.items()
            for key, value in evaluate(net).items() if key != "n_images"}


def saved_network(run: Run, folder: Path | None) -> nn.Module:
    """Returns the network that a finished run has saved: that of its best epoch.

    Without a folder, or where only a measurement was asked for, it is the one at hand.

    Args:
        run: the run; its network is replaced.
        folder: of the run; only the first process reads it, the others get what it has.
    """
    net = run.placed(run.best)
    if folder and not run.args.evaluate:
        if run.world.primary and (folder / "net.init").is_file():
            load_weights(net, folder / "net.init")
        run.world.share(net)
    return net


def log_figures(when: str, figures: dict[str, float], transform: str) -> None:
    """Logs the figures of an evaluation."""
    log.info("%s: top1 %.4f, top5 %.4f, loss %.5f (%d images, %s)", when, figures["top1"],
             figures["top5"], figures["loss"], figures["n_images"], transform)
