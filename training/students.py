"""The networks of a fine-tuning: the one that learns, and the one that teaches."""

import argparse
import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from networks import configs
from networks.batch_norm import recalibrate_bn
from networks.checkpoints import load_checkpoint, load_state, load_weights, save_weights
from networks.folding import speed_up
from networks.pretrained import fetched
from networks.static import StaticNetwork, replace_classifier
from networks.supernet_info import check_classes
from networks.supernets import build_from_config, cut_subnet, load_supernet
from search_space import get_search_space
from training.loops import Criterion, Objective, distilled, supervised
from utils.devices import seeded
from utils.errors import UserError, one_line
from utils.files import open_regular

log = logging.getLogger("train")

CLASS_NAMES = "class_names"

# The value of --initial-checkpoint for weights drawn from the seed, and its default file.
NO_WEIGHTS, INHERITED = "none", "net.inherited"


class Teacher(NamedTuple):
    """A network in eval mode, and whether its BN statistics must be recomputed first."""

    net: nn.Module
    calibrate: bool


class Networks(NamedTuple):
    """What a fine-tuning needs.

    Attributes:
        student: the network that learns.
        teacher: or None.
        resolution: r, in pixels.
        extra: what the config has next to the layers, to be written again.
    """

    student: StaticNetwork
    teacher: Teacher | None
    resolution: int
    extra: dict[str, Any]


def load_networks(args: argparse.Namespace, config: dict[str, Any], n_classes: int,
                  class_names: Sequence[str] = ()) -> Networks:
    """Returns the networks that the flags of `training.flags.add_network_flags` describe.

    Args:
        args: the flags, with `seed` and `resume`.
        config: what `--model-config` holds.
        n_classes: of the data.
        class_names: of the data, by label; empty where it has none.

    Raises:
        UserError: see `load_student` and `load_teacher`; fewer classes than the data has.
    """
    check_names(config.get(CLASS_NAMES), class_names, args.model_config)
    wanted = args.num_classes or n_classes
    if wanted < n_classes:
        raise UserError(f"--num-classes {wanted}: the data set has {n_classes}")
    resolution = configs.choose_resolution(args.img_size, configs.recorded_resolution(config),
                                           args.model_config, report=log.warning)
    student = load_student(
        args.model_config, initial_weights(args), wanted, drop=args.drop, drop_path=args.drop_path,
        seed=args.seed, reset=args.reset_classifier, bn=(args.bn_momentum, args.bn_eps))
    teacher = load_teacher(args.teacher, args.teacher_checkpoint, wanted) if args.teacher else None
    own: Any = student
    same = config["classifier"]["out_features"] == wanted
    extra = {key: value for key, value in config.items()
             if key not in own.config and (same or key != CLASS_NAMES)}
    return Networks(student, teacher, resolution, extra)


def check_names(recorded: Sequence[str] | None, names: Sequence[str], source: str) -> None:
    """Warns where as many classes as the data has are others, or in another order."""
    if not recorded or len(recorded) != len(names) or list(recorded) == list(names):
        return
    odd = next(i for i, name in enumerate(names) if name != recorded[i])
    log.warning("%s: its class %d is %s, but the data's is %s; --reset-classifier trains a "
                "new classifier", source, odd, one_line(recorded[odd]), one_line(names[odd]))


def initial_weights(args: argparse.Namespace) -> str | None:
    """Returns the file of the weights to start from, and logs it; None draws them.

    Without --initial-checkpoint it is `net.inherited` next to the config, if there is one.
    """
    if args.resume or args.initial_checkpoint == NO_WEIGHTS:
        return None
    if args.initial_checkpoint:
        return str(args.initial_checkpoint)
    inherited = Path(args.model_config).parent / INHERITED
    if inherited.is_file():
        log.info("weights: %s, next to the config", one_line(inherited))
        return str(inherited)
    log.warning("no --initial-checkpoint, and no %s next to the config: training starts from "
                "random weights, which takes many more epochs", INHERITED)
    return None


def training_objective(args: argparse.Namespace, teacher: Teacher | None, criterion: Criterion,
                       calibration: Callable[[], Iterable[Tensor]],
                       device: torch.device) -> Objective:
    """Returns what is minimised: the labels' loss, and the teacher's where there is one.

    Args:
        args: `kd_ratio`, the weight of the teacher's output, and `kd_temperature`.
        teacher: or None; it moves to the device.
        criterion: (logits, labels) -> scalar.
        calibration: gives batches of training images (b, 3, r, r) for its BN statistics.
        device: of the training.
    """
    if teacher is None:
        return supervised(criterion)
    net = ready_to_teach(teacher, calibration, device)
    return distilled(net, args.kd_ratio, criterion, args.kd_temperature)


def ready_to_teach(teacher: Teacher, calibration: Callable[[], Iterable[Tensor]],
                   device: torch.device) -> nn.Module:
    """Returns the teacher on a device, calibrated where its BN statistics are not its own."""
    net = teacher.net.to(device).to(memory_format=torch.channels_last)
    if teacher.calibrate:
        recalibrate_bn(net, calibration())
    return net


def first_images(batches: Iterable[tuple[Tensor, Tensor]], n: int) -> Iterable[Tensor]:
    """Yields the images of the first `n` batches."""
    return (images for images, _ in islice(batches, n))


def write_pair(net: StaticNetwork, folder: Path, networks: Networks,
               facts: dict[str, Any]) -> None:
    """Writes `net.config` and `net.init`, which validation.py reads, into the folder.

    Args:
        net: the network.
        folder: where to.
        networks: what the training began with.
        facts: what the files record of the images: `DataProvider.facts`.
    """
    save_weights(net, folder / "net.init")
    extra = {"search_space": configs.config_family(net.config).name, **networks.extra, **facts,
             "resolution": networks.resolution}
    if len(extra.get(CLASS_NAMES) or ()) != net.classifier.out_features:
        extra.pop(CLASS_NAMES, None)
    configs.write_config(net, folder / "net.config", **extra)


def load_student(config_path: str, checkpoint: str | None, n_classes: int, *, drop: float = 0.0,
                 drop_path: float = 0.0, seed: int = 0, reset: bool = False,
                 bn: tuple[float | None, float | None] = (None, None)) -> StaticNetwork:
    """Returns the network to train.

    DEVIATION dropout: `drop` holds for any classifier; the original's `--drop` only for a new one.
    DEVIATION kept-classifier: the original's train_cifar.py always begins with a new one.

    Args:
        config_path: its net.config.
        checkpoint: its weights; None draws them from the seed.
        n_classes: where the config has another number, the classifier is replaced by a new one.
        drop, drop_path: see `networks.build_from_config`.
        seed: of the new weights.
        reset: replace the classifier in any case.
        bn: momentum and epsilon of batch normalisation; None keeps the config's.

    Raises:
        UserError: a wrong config, or weights of another network.
    """
    config = configs.read_config(config_path)
    for key, value in zip(("momentum", "eps"), bn, strict=True):
        if value is not None:
            config["bn"] = {**config["bn"], key: value}
    with seeded(seed):
        net = build_from_config(config, drop_path, drop)
    if checkpoint:
        load_weights(net, checkpoint)
    speed_up(net)
    if reset or net.classifier.out_features != n_classes:
        log.info("a new classifier of %d classes, in place of that of %d", n_classes,
                 net.classifier.out_features)
        replace_classifier(net, n_classes, torch.Generator().manual_seed(seed))
    return net


def load_teacher(who: str, checkpoint: str | None, n_classes: int) -> Teacher:
    """Returns the network that teaches; its weights do not change.

    DEVIATION teacher-mode: the original's teaches in training mode, with each batch's statistics.

    Args:
        who: a supernet's checkpoint, which teaches at its full size; a net.config; or the name of
            a timm model.
        checkpoint: weights of the last two; None takes timm's pretrained ones.
        n_classes: that the teacher must have.

    Raises:
        UserError: as `check_teacher`; weights of another network, weights that cannot be fetched,
            or another class count.
    """
    check_teacher(who, checkpoint)
    path, calibrate = Path(who), False
    if not path.is_file():
        net, classes = _timm_teacher(who, checkpoint)
    elif checkpoint is not None:
        net = build_from_config(configs.read_config(who))
        load_weights(net, checkpoint)
        classes = net.classifier.out_features
    else:
        supernet = load_supernet(who)
        largest = get_search_space(supernet.family).extremes()[1]
        net, calibrate = cut_subnet(supernet, largest), True
        classes = net.classifier.out_features
    check_classes(who, classes, n_classes, "choose a teacher of the same classes")
    return Teacher(net.eval().requires_grad_(False), calibrate)


def check_teacher(who: str, checkpoint: str | None) -> None:
    """Raises UserError where `load_teacher` would find no such network or file; loads nothing."""
    path = Path(who)
    if not path.is_file():
        import timm

        if not timm.is_model(who):
            raise UserError(f"--teacher {who}: neither a file nor a model that timm knows")
    elif _is_json(path):
        if checkpoint is None:
            raise UserError(f"{who}: a network config as the teacher needs --teacher-checkpoint")
    elif checkpoint is not None:
        raise UserError(f"--teacher-checkpoint {checkpoint}: the supernet {who} has weights of its "
                        "own; leave it out")
    if checkpoint is not None and not Path(checkpoint).exists():
        raise UserError(f"--teacher-checkpoint {checkpoint}: no such file")


def _is_json(path: Path) -> bool:
    with open_regular(path) as file:
        return file.read(256).lstrip()[:1] == b"{"


def _timm_teacher(name: str, checkpoint: str | None) -> tuple[nn.Module, int]:
    import timm

    if checkpoint is None:
        net = fetched(name, "--teacher", "give a file of them as --teacher-checkpoint")
    else:
        state = load_checkpoint(checkpoint)
        classifier = timm.get_pretrained_cfg_value(name, "classifier") or "classifier"
        bias = state.get(f"{classifier}.bias")
        net = timm.create_model(name, num_classes=1000 if bias is None else len(bias))
        load_state(net, state, checkpoint)
    return net, cast(int, net.num_classes)
