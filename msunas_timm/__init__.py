"""Lets timm build and load the networks of this project; importing it registers them.

    import msunas_timm, timm
    net = timm.create_model("local-dir:hub", pretrained=True)

It needs timm alone. timm's train.py imports it with `--device-modules msunas_timm`; other scripts
run by `python -m msunas_timm SCRIPT`.

The networks are timm's own classes, described by their block strings. A folder's config.json
carries the arguments, so one name serves every network of a family.
"""

from msunas_timm.models import nsganetv2, nsganetv2_chain, nsganetv2_proxyless

__all__ = ["nsganetv2", "nsganetv2_chain", "nsganetv2_proxyless"]
