"""The README.md of a network that others can load: what it is, how good, and how it was made."""

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from evaluator.costs import FLOPS_CONVENTION, MACS_CONVENTION, millions, network_costs
from evaluator.layers import config_layers
from evaluator.timing import device_name, measure_latency
from networks.hub import HUB, Preprocessing, timm_model, write_hub
from utils.errors import UserError, one_line
from utils.intervals import wilson

__all__ = ["HUB", "Accuracy", "Card", "Preprocessing", "give_to_timm", "render"]

LATENCY_REPEATS = 50
NAMED_CLASSES = 100
_HEADER = """---
library_name: timm
pipeline_tag: image-classification
license: apache-2.0
tags:
- image-classification
- timm
- neural-architecture-search
---
"""
_USAGE = """```python
import msunas_timm, timm

net = timm.create_model("local-dir:hub", pretrained=True).eval()
config = timm.data.resolve_model_data_config(net)
transform = timm.data.create_transform(**config, is_training=False)
logits = net(transform(image)[None])    # image: a PIL image in RGB
```

`num_classes=7` gives it a new classifier, `features_only=True` the feature maps of five stages."""
_LICENCE = """The program is under the Apache License 2.0. The weights come from the supernet and \
the data named above,
whose licences apply as well."""


class Accuracy(NamedTuple):
    """What was measured on one set of images.

    Attributes:
        images: which ones, such as `test images`.
        n: how many.
        top1: in percent.
        role: what else they were used for; a reader must know who chose by them.
    """

    images: str
    n: int
    top1: float
    role: str


@dataclass(frozen=True)
class Card:
    """What a model card says besides the costs, which follow from the network.

    Attributes:
        title: the network's name.
        dataset: name of the data set.
        facts: further rows of the first table, such as the position on the front.
        accuracies: what was measured.
        commands: what was done, such as `search`, and the command of it.
        notes: warnings in whole sentences.
    """

    title: str
    dataset: str
    facts: Mapping[str, str] = field(default_factory=dict)
    accuracies: Sequence[Accuracy] = ()
    commands: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def give_to_timm(net: Any, folder: str | os.PathLike, images: Preprocessing,
                 card: Card) -> None:
    """Writes the folder that timm loads, with its model card; a note says why not.

    Args:
        net: a static network.
        folder: the folder, see `networks.hub.write_hub`.
        images: what the network was tuned with.
        card: the rest of what its README says.
    """
    try:
        timm_model(net.config)  # before the latency is measured
        write_hub(net, folder, images, render(card, net, images))
    except UserError as error:
        print(f"note: no {folder}: {error}", file=sys.stderr)


def render(card: Card, net: Any, images: Preprocessing) -> str:
    """Returns the text of a model card in Markdown; measures the latency on this machine."""
    blocks = [f"{what}:\n\n{_fenced(command)}" for what, command in card.commands.items()]
    sections = {"Use": _USAGE, "Network": _facts(card, net, images),
                "Accuracy": _accuracies(card.accuracies),
                "How it was made": "\n\n".join([*blocks, *card.notes]), "Licence": _LICENCE}
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
    return f"{_HEADER}# {_plain(card.title)}\n\nAn image classifier for the data set " \
           f"{_plain(card.dataset)}, found by MSuNAS.\n\n{body}\n"


def _facts(card: Card, net: Any, images: Preprocessing) -> str:
    costs = network_costs(config_layers(net.config, images.resolution))
    rows = {"classes": _classes(images.class_names, net.classifier.out_features),
            "input": f"{images.resolution} x {images.resolution} pixels, transform "
                     f"`{images.transform}`",
            "parameters": f"{millions(costs.params)} M",
            "FLOPs": f"{millions(costs.flops)} M ({FLOPS_CONVENTION})",
            "MACs": f"{millions(costs.macs)} M ({MACS_CONVENTION})",
            "latency": _latency(net, images.resolution),
            **{name: _plain(text) for name, text in card.facts.items()}}
    return _table(["", ""], [[name, text] for name, text in rows.items()])


def _classes(names: Sequence[str], n: int) -> str:
    """Returns the number of the classes and their names in the order of the outputs, if known."""
    if len(names) != n:
        return str(n)
    shown = ", ".join(one_line(name).replace("|", "\\|") for name in names[:NAMED_CLASSES])
    return f"{n}: {shown}" + (", ... (`label_names` in `config.json`)" if n > NAMED_CLASSES else "")


def _latency(net: Any, resolution: int) -> str:
    import torch

    device = "cuda:0" if next(net.parameters()).is_cuda else "cpu"
    latency = measure_latency(net, resolution, device=device, max_repeats=LATENCY_REPEATS)
    threads = "" if device != "cpu" else ", one thread"
    return (f"{latency.mean:.2f} ms for one image, PyTorch {torch.__version__}, "
            f"{device_name(device)}{threads}, {platform.system()}")


def _plain(text: str) -> str:
    """Returns a text of a received folder as Markdown that shows it: nothing in it is markup."""
    return re.sub(r"([\\`|<\[\]])", r"\\\1", one_line(text))


def _fenced(command: str) -> str:
    """Returns a command as a block of code whose fence it does not hold."""
    fence = max(["``", *re.findall("`+", command)], key=len) + "`"
    return f"{fence}sh\n{command}\n{fence}"


def _accuracies(accuracies: Sequence[Accuracy]) -> str:
    if not accuracies:
        return "Not measured."
    rows = [[a.images, a.n, f"{a.top1:.2f} %",
             "{:.2f} to {:.2f} %".format(*wilson(round(a.n * a.top1 / 100), a.n)), a.role]
            for a in accuracies]
    return _table(["images", "number", "top-1", "95 % interval (Wilson)", "used before for"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
