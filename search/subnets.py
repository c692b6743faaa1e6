"""Writes chosen subnets with inherited weights: for this program, for the original, for timm."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.progress import progress_bar
from search.archive import Record
from search_space import DEFAULT, SPACE_KEY, Arch, search_space_class
from utils.errors import UserError, note
from utils.files import own_folder, read_json, write_json

if TYPE_CHECKING:
    from torch import nn

    from evaluator.accuracy import SupernetEvaluator
    from evaluator.model_card import Card


class Target(NamedTuple):
    """A chosen record, and where it is written.

    Attributes:
        record: of the archive.
        folder: named after its second objective.
        content: of its net.subnet: the architecture, and its space where that is not `DEFAULT`.
    """

    record: Record
    folder: Path
    content: dict[str, Any]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    def write_subnet(self) -> None:
        """Writes the net.subnet."""
        write_json(self.folder / "net.subnet", self.content)


def make_targets(save: str, names: Sequence[str], records: Sequence[Record],
                 space: str | None) -> list[Target]:
    """Returns where records are written.

    Args:
        save: the folder for all of them.
        names, records: of equal length.
        space: name of the search space; None where no file says one.

    Raises:
        UserError: a folder is a link.
    """
    named = {} if space in (None, DEFAULT) else {SPACE_KEY: space}
    return [Target(record, own_folder(Path(save) / name), {**record.arch, **named})
            for name, record in zip(names, records, strict=True)]


def check_targets(targets: Sequence[Target]) -> None:
    """Raises UserError where a folder already holds another network."""
    for target in targets:
        subnet = target.folder / "net.subnet"
        if subnet.exists() and read_json(subnet, "subnet file") != target.content:
            raise UserError(f"{target.folder}: holds another network; choose another --save")


class Cutter(NamedTuple):
    """From architecture to subnet, with what scores it: None without a data set."""

    cut: Callable[[Arch], "nn.Module"]
    evaluator: "SupernetEvaluator | None"


def make_cutter(settings: Mapping[str, Any]) -> Cutter:
    """Returns what makes the subnets.

    With a data set they have the BN statistics that the search evaluated them with.

    Args:
        settings: of the search: the supernet, and the data set with its split.

    Raises:
        UserError: the supernet or the data set is missing, or does not fit.
    """
    from networks import cut_subnet, load_supernet

    if settings["dataset"] is None:
        note("no --dataset, so net.inherited keeps the supernet's batch-norm statistics; fine-tune "
             "the networks before validating them")
        supernet = load_supernet(settings["supernet_path"], settings["n_classes"],
                                 search_space_class(settings["search_space"]).family)
        return Cutter(lambda arch: cut_subnet(supernet, arch), None)
    if settings["n_epochs"]:
        note(f"the search fine-tuned each network for {settings['n_epochs']} epochs; net.inherited "
             "holds the supernet's weights, to be fine-tuned")
    from evaluator.accuracy import SupernetEvaluator
    from evaluator.options import EvaluationOptions

    evaluator = SupernetEvaluator(EvaluationOptions.of(
        {**settings, "n_classes": None, "device": "cpu" if settings["n_gpus"] == 0 else None}))
    return Cutter(evaluator.calibrated, evaluator)


def write_subnets(targets: Sequence[Target], cutter: Cutter,
                  old_naming: bool) -> list["nn.Module"]:
    """Writes `net.subnet`, `net.config` and `net.inherited` of each target; returns the networks.

    Args:
        targets: what is written, and where.
        cutter: makes the networks.
        old_naming: write what the original program reads.
    """
    from networks import save_weights, write_config
    from networks.hub import HUB, withdraw

    facts = cutter.evaluator.provider.facts() if cutter.evaluator else {}
    nets = []
    for target in progress_bar(targets, "network"):
        arch, folder = target.record.arch, target.folder
        nets.append(subnet := cutter.cut(arch))
        withdraw(folder / HUB)  # of the weights that are now replaced
        target.write_subnet()
        named = {SPACE_KEY: target.content[SPACE_KEY]} if SPACE_KEY in target.content else {}
        write_config(subnet, folder / "net.config", old_naming, resolution=arch["r"], **facts,
                     **named)
        weights = folder / "net.inherited"
        before = weights.read_bytes() if weights.is_file() else None
        save_weights(subnet, weights, old_naming)
        if before not in (None, weights.read_bytes()):
            note(f"{weights}: replaced by other weights than before: the supernet or the flags are "
                 "not the same; what was tuned of it is older")
    return nets


def write_hubs(targets: Sequence[Target], nets: Sequence["nn.Module"], cards: Sequence["Card"],
               evaluator: "SupernetEvaluator") -> None:
    """Writes `hub/`, which timm loads, into each folder; a note says why not.

    Args:
        targets, nets, cards: of the networks.
        evaluator: names the transform of the images, and their classes.
    """
    from evaluator.model_card import HUB, Preprocessing, give_to_timm

    facts = evaluator.provider.facts()
    for target, net, card in zip(targets, nets, cards, strict=True):
        images = Preprocessing.of(target.record.arch["r"], facts)
        give_to_timm(net, target.folder / HUB, images, card)
