"""What is minimised on a batch of labels: the criteria of the fine-tuning scripts."""

import argparse

from timm import loss
from torch.nn.functional import cross_entropy

from training.loops import Criterion


def make_criterion(args: argparse.Namespace, mixes: bool) -> Criterion:
    """Returns the criterion that the flags describe: (logits, labels) -> scalar.

    Args:
        args: the flags of train_imagenet.py, checked by `training.flags.check_loss`.
        mixes: whether the labels are mixed, and with that smoothed, already.
    """
    smoothing = 0.0 if mixes else args.smoothing
    if args.jsd:
        return loss.JsdCrossEntropy(num_splits=args.aug_splits, smoothing=smoothing)
    if args.bce_loss:
        return loss.BinaryCrossEntropy(smoothing=smoothing, target_threshold=args.bce_target_thresh,
                                  sum_classes=args.bce_sum, pos_weight=args.bce_pos_weight)
    if mixes:
        return loss.SoftTargetCrossEntropy()
    return loss.LabelSmoothingCrossEntropy(smoothing) if smoothing else cross_entropy
