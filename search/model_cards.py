"""The model cards of the networks that a search found."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evaluator.model_card import Accuracy, Card
from search.archive import Record
from search.baseline import Baseline
from utils.invocation import program

if TYPE_CHECKING:
    from evaluator.rescore import Scores
    from search.deployed import Deployed

CHOSEN_BY = "search and selection chose the network by them"
UNSEEN = "nothing: neither the search nor the selection saw them"


def search_cards(records: Mapping[str, Record], where: Sequence[str], dataset: str,
                 supernet: str, pretrained: str | None, commands: Mapping[str, str], n_images: int,
                 scores: "Scores | None", deployed: "Deployed | None" = None,
                 baselines: Sequence[Baseline] = ()) -> list[Card]:
    """Returns a card for each network: what the search measured, and what `--rescore` did.

    That is the accuracy, and whether the images tell each network from its neighbours.

    Args:
        records: of the networks, by their names.
        where: the place of each on the front.
        dataset, supernet: that the search used.
        pretrained: the weights that the supernet started from; None where none are known.
        commands: see `Card`.
        n_images: that the search scored on.
        scores: of the same networks, or None.
        deployed: their latencies on a device, or None.
        baselines: to compare the networks with.
    """
    pairs = [] if scores is None else [f"Unseen images: {line}." for line in scores.pair_lines()]
    compared = [f"For comparison: {network.line()}." for network in baselines]
    cards = []
    for i, (name, record) in enumerate(records.items()):
        rows = [Accuracy("validation images", n_images, 100 - record.top1_err, CHOSEN_BY)]
        notes = pairs[max(i - 1, 0):i + 1]  # against the one before, and the one after it
        if scores is None:
            notes = ["Its accuracy on unseen images was not measured: "
                     f"`{program('post_search.py')} --rescore` does."]
        else:
            rows.append(Accuracy(scores.images, scores.n_images, scores.top1[i], UNSEEN))
        facts = {"supernet": supernet, "place on the front": where[i]}
        if pretrained:
            facts["pretrained weights"] = pretrained
        if deployed is not None:
            facts["latency on the device"] = deployed.facts()[i]
        cards.append(Card(name, dataset, facts, rows, commands, [*notes, *compared]))
    return cards
