"""What is minimised on a batch of labels: the criteria of the fine-tuning scripts."""

import argparse

from timm.loss import (
    BinaryCrossEntropy,
    JsdCrossEntropy,
    LabelSmoothingCrossEntropy,
    SoftTargetCrossEntropy,
)
from torch import nn
from torch.nn.functional import cross_entropy

from training.loops import Criterion
from utils.errors import UserError


def check_loss(args: argparse.Namespace) -> None:
    """Raises UserError for flags of the loss and its augmentation that contradict each other."""
    mixes = args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None
    if args.aug_splits == 1:
        raise UserError("--aug-splits 1: one split is no split; give 2 or more, or 0 for none")
    if args.jsd and not args.aug_splits:
        raise UserError("--jsd: needs --aug-splits 2 or more, the images that it compares")
    if args.aug_splits and mixes:
        raise UserError("--aug-splits: cannot be used with --mixup or --cutmix")
    if (args.aug_splits or args.aug_repeats) and (args.dataset or "").lower().startswith("wds/"):
        raise UserError("--aug-splits, --aug-repeats: not with --dataset wds/..., whose images "
                        "come in a stream and cannot be asked for again")
    if args.jsd and args.bce_loss:
        raise UserError("--jsd and --bce-loss: choose one")


def make_criterion(args: argparse.Namespace, mixes: bool) -> Criterion:
    """Returns the criterion that the flags describe: (logits, labels) -> scalar.

    Args:
        args: the flags of train_imagenet.py, checked by `check_loss`.
        mixes: whether the labels are mixed, and with that smoothed, already.
    """
    smoothing = 0.0 if mixes else args.smoothing
    if args.jsd:
        return JsdCrossEntropy(num_splits=args.aug_splits, smoothing=smoothing)
    if args.bce_loss:
        return _binary(args, smoothing)
    if mixes:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(smoothing) if smoothing else cross_entropy


def _binary(args: argparse.Namespace, smoothing: float) -> nn.Module:
    return BinaryCrossEntropy(smoothing=smoothing, target_threshold=args.bce_target_thresh,
                              sum_classes=args.bce_sum, pos_weight=args.bce_pos_weight)
