"""Once-for-All supernets: build, load, and cut subnets out of them."""

import os

import torch
from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3

from networks.checkpoints import load_checkpoint, load_state
from networks.configs import Config
from networks.static import NSGANetV2, without_init
from search_space.backbones import MOBILENET_V3, make_divisible, width_from_name
from search_space.base import Arch
from utils.errors import UserError

SUPERNETS = {"mbv3": OFAMobileNetV3}
KERNEL_SIZES, EXPANSIONS, DEPTHS = [3, 5, 7], [3, 4, 6], [2, 3, 4]


def build_supernet(n_classes: int, width_mult: float = 1.0, dropout: float = 0.1,
                   space: str = "mbv3") -> OFAMobileNetV3:
    """Returns a supernet with random weights, in train mode, its largest subnet active.

    Kernels 3/5/7, expansions 3/4/6, depths 2/3/4. Source: Once for All (Cai et al., ICLR 2020).

    Raises:
        UserError: no supernet of that name.
    """
    if space not in SUPERNETS:
        raise UserError(f"no supernet for the search space {space!r}; choose from "
                        f"{', '.join(sorted(SUPERNETS))}")
    return SUPERNETS[space](n_classes=n_classes, dropout_rate=dropout, width_mult=width_mult,
                            ks_list=KERNEL_SIZES.copy(), expand_ratio_list=EXPANSIONS.copy(),
                            depth_list=DEPTHS.copy())


def load_supernet(path: str | os.PathLike, n_classes: int | None = None) -> OFAMobileNetV3:
    """Loads a supernet checkpoint of either key naming; returns it in eval mode, on the CPU.

    The width multiplier is the `w1.2` of the file's name, 1.0 where it has none.

    Args:
        path: the checkpoint.
        n_classes: what the classifier must have; None takes what it has.

    Raises:
        UserError: no safe, complete supernet checkpoint, or of another width or class count.
    """
    state = load_checkpoint(path)
    classes, width = _shape_of(state, path)
    if n_classes not in (None, classes):
        raise UserError(f"{path}: the classifier has {classes} classes, not {n_classes}; pass the "
                        "class count that the supernet was trained with")
    with without_init():
        supernet = build_supernet(classes, width, dropout=0.0)
    load_state(supernet, state, str(path))
    return supernet.eval()


def subnet_config(supernet: OFAMobileNetV3, arch: Arch) -> Config:
    """Returns the network config of the subnet `arch`, in today's naming; changes nothing."""
    first = supernet.blocks[0]
    channels, blocks = first.conv.out_channels, [first.config]
    for index, kernel, expansion in _active_layers(supernet, arch):
        block = supernet.blocks[index]
        conv = block.conv
        blocks.append({
            "name": "ResidualBlock",
            "conv": {"name": "MBConvLayer", "in_channels": channels,
                     "out_channels": conv.out_channels, "kernel_size": kernel,
                     "stride": conv.stride, "expand_ratio": expansion,
                     "mid_channels": make_divisible(channels * expansion),
                     "act_func": conv.act_func, "use_se": conv.use_se},
            "shortcut": block.shortcut and block.shortcut.config})
        channels = conv.out_channels
    tails = ("first_conv", "final_expand_layer", "feature_mix_layer", "classifier")
    return {"name": "MobileNetV3", "bn": supernet.get_bn_param(), "blocks": blocks,
            **{part: getattr(supernet, part).config for part in tails}}


@torch.no_grad()
def cut_subnet(supernet: OFAMobileNetV3, arch: Arch) -> NSGANetV2:
    """Returns the subnet `arch` as a static network of its own, with the supernet's weights.

    The supernet is only read: neither its active subnet nor its mode counts or changes, so several
    threads may cut at once. The result is in eval mode, on the supernet's device, and shares no
    memory with it. Its BN statistics are the supernet's and belong to other channels: recompute
    them with `recalibrate_bn` before measuring accuracy.
    """
    with without_init():
        subnet = NSGANetV2.build_from_config(subnet_config(supernet, arch))
    subnet.to(supernet.classifier.linear.weight.device)
    layers = [(0, None, None), *_active_layers(supernet, arch)]
    for part in ("first_conv", "final_expand_layer", "feature_mix_layer", "classifier"):
        _copy_corner(getattr(supernet, part), getattr(subnet, part))
    for block, (index, kernel, _) in zip(subnet.blocks, layers, strict=True):
        source = supernet.blocks[index].conv
        _copy_corner(source, block.conv)
        if kernel is not None:
            weight = block.conv.depth_conv.conv.weight
            weight.copy_(source.depth_conv.conv.get_active_filter(len(weight), kernel))
    return subnet.eval()


def _active_layers(supernet: OFAMobileNetV3, arch: Arch) -> list[tuple[int, int, int]]:
    """Returns (block of the supernet, kernel size, expansion) of each layer of the subnet."""
    indices = [index for stage, depth in zip(supernet.block_group_info, arch["d"], strict=True)
               for index in stage[:depth]]
    return list(zip(indices, arch["ks"], arch["e"], strict=True))


def _copy_corner(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Copies to each tensor of `target` the first channels of its elastic counterpart.

    Elastic modules wrap the plain ones: `conv.conv.weight` there is `conv.weight` here.
    """
    full = {key.replace(".conv.conv.", ".conv.").replace(".bn.bn.", ".bn."): tensor
            for key, tensor in source.state_dict().items()}
    for key, tensor in target.state_dict().items():
        tensor.copy_(full[key][tuple(slice(n) for n in tensor.shape)])


def _shape_of(state: dict[str, torch.Tensor], path: str | os.PathLike) -> tuple[int, float]:
    """Returns the class count and the width multiplier of a supernet's state dict, checked."""
    sizes = {}
    for key, n_dims in (("classifier.linear.weight", 2), ("feature_mix_layer.conv.weight", 4)):
        tensor = state.get(key)
        if tensor is None or tensor.dim() != n_dims or not tensor.numel():
            raise UserError(f"{path}: no checkpoint of an OFA MobileNetV3 supernet: {key!r} is "
                            "missing or misshapen")
        sizes[key] = len(tensor)
    classes, features = sizes.values()
    width = width_from_name(path)
    if not 0 < width < 100 or make_divisible(MOBILENET_V3.feature_mix * width) != features:
        raise UserError(f"{path}: by its name the width is {width}, but the last convolution has "
                        f"{features} channels, which is width "
                        f"{features / MOBILENET_V3.feature_mix:.4g}; rename the file: ..._w1.2 is "
                        "width 1.2")
    return classes, width
