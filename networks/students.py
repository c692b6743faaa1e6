"""The networks of a fine-tuning: the one that learns, and the one that teaches."""

from pathlib import Path

import torch
from torch import nn

from networks.checkpoints import load_checkpoint, load_state, load_weights
from networks.configs import read_config
from networks.static import build_from_config, replace_classifier
from networks.supernets import cut_subnet, load_supernet
from search_space import OFASearchSpace
from utils.errors import UserError
from utils.training import seeded


def load_student(config_path: str, checkpoint: str | None, n_classes: int, *, drop: float = 0.0,
                 drop_path: float = 0.0, seed: int = 0) -> nn.Module:
    """Returns the network to train.

    Args:
        config_path: its net.config.
        checkpoint: its weights; None draws them from the seed.
        n_classes: where the config says another number, the classifier is replaced by a new one.
        drop, drop_path: see `networks.build_from_config`.
        seed: of the new weights.

    Raises:
        UserError: a wrong config, or weights of another network.
    """
    config = read_config(config_path)
    with seeded(seed):
        net = build_from_config(config, drop_path, drop)
    if checkpoint:
        load_weights(net, checkpoint)
    if net.classifier.out_features != n_classes:
        replace_classifier(net, n_classes, torch.Generator().manual_seed(seed))
    return net


def load_teacher(who: str, checkpoint: str | None, n_classes: int) -> tuple[nn.Module, bool]:
    """Returns the teacher in eval mode, and whether its BN statistics must be recomputed.

    Args:
        who: a supernet's checkpoint, which teaches at its full size; a net.config; or the name of
            a timm model.
        checkpoint: weights of the last two; None takes timm's pretrained ones.
        n_classes: what the teacher must tell apart.

    Raises:
        UserError: no such file or model, weights of another network, or another class count.
    """
    path, calibrate = Path(who), False
    if not path.is_file():
        net, classes = _timm_teacher(who, checkpoint)
    elif path.read_bytes()[:256].lstrip()[:1] == b"{":
        if checkpoint is None:
            raise UserError(f"{who}: a network config teaches only with --teacher-checkpoint")
        net = build_from_config(read_config(who))
        load_weights(net, checkpoint)
        classes = net.classifier.out_features
    else:
        net, calibrate = cut_subnet(load_supernet(who), OFASearchSpace().extremes()[1]), True
        classes = net.classifier.out_features
    if classes != n_classes:
        raise UserError(f"{who}: teaches {classes} classes, but the data set has {n_classes}; "
                        "choose a teacher of the same classes")
    return net.eval().requires_grad_(False), calibrate


def _timm_teacher(name: str, checkpoint: str | None) -> tuple[nn.Module, int]:
    import timm

    if not timm.is_model(name):
        raise UserError(f"--teacher {name}: neither a file nor a model that timm knows")
    state = load_checkpoint(checkpoint) if checkpoint else None
    if state is None:
        net = timm.create_model(name, pretrained=True)
    else:
        classifier = timm.get_pretrained_cfg_value(name, "classifier") or "classifier"
        bias = state.get(f"{classifier}.bias")
        net = timm.create_model(name, num_classes=1000 if bias is None else len(bias))
        load_state(net, state, checkpoint)
    return net, net.num_classes
