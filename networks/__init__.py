"""Supernets, the static networks cut from them, and their file formats.

Names are imported on first use: reading a network config needs no torch.
"""

from utils.registry import lazy_names

_MODULES = {
    "checkpoints": ("load_checkpoint", "load_state", "load_training_state", "load_weights",
                    "read_checkpoint", "save_training_state", "save_weights"),
    "configs": ("check_config", "choose_resolution", "read_config", "recorded_resolution",
                "to_old_naming", "write_config"),
    "families": ("FAMILIES",),
    "supernet_info": ("SupernetInfo", "read_supernet_info"),
    "inverted_residuals": ("NSGANetV2", "ProxylessNASNets"),
    "resnet50": ("ResNets",),
    "static": ("StaticNetwork", "replace_classifier"),
    "supernets": ("activate", "build_from_config", "build_supernet", "cut_subnet", "load_supernet",
                  "subnet_config"),
    "batch_norm": ("recalibrate_bn",),
    "warm_start": ("fill_from_network", "with_classes"),
}

__all__ = sorted(name for names in _MODULES.values() for name in names)
__getattr__ = lazy_names(__name__, _MODULES)
