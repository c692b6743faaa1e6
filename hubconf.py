"""For `torch.hub.load(repo, "nsganetv2", config=..., weights=..., source="local")`."""

import sys
from pathlib import Path
from typing import Any

dependencies = ["torch", "timm", "ofa"]


def nsganetv2(config: str, weights: str | None = None, *, ema: bool = False,
              pretrained: bool = True) -> Any:
    """Returns a network of a search, in eval mode: (b, 3, r, r) images to (b, n_classes) logits.

    Args:
        config: its net.config.
        weights: net.inherited, net.init, or a checkpoint of a fine-tuning; None: random weights.
        ema: take the averaged weights of a checkpoint.
        pretrained: False leaves the weights random, even where `weights` names a file.

    Raises:
        UserError: a wrong config, or weights of another network.
    """
    root = str(Path(__file__).resolve().parent)
    added = root not in sys.path
    if added:
        sys.path.insert(0, root)
    try:
        from networks import build_from_config, load_weights, read_config

        net = build_from_config(read_config(config))
        if weights is not None and pretrained:
            load_weights(net, weights, ema)
    finally:
        if added:
            sys.path.remove(root)
    return net.eval()
