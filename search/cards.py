"""The model cards of the networks that a search found."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evaluator.model_card import Accuracy, Card
from search.archive import Record
from utils.invocation import program

if TYPE_CHECKING:
    from evaluator.rescore import Scores

CHOSEN_BY = "search and selection chose the network by them"
UNSEEN = "nothing: neither the search nor the selection saw them"


def search_cards(names: Sequence[str], front: Sequence[Record], chosen: Sequence[int],
                 objective: str, settings: Mapping[str, Any],
                 commands: Mapping[str, str], by_hand: bool = False) -> list[Card]:
    """Returns a card for each chosen network, without accuracies.

    Args:
        names: of the chosen networks.
        front: the front by ascending second objective.
        chosen: their indices in it.
        objective: name of the second objective.
        settings: of the search: `dataset`, `supernet_path`.
        commands: see `Card`.
        by_hand: whether somebody picked them from the archive; `front` is what was picked then.
    """
    def place(i: int) -> str:
        if by_hand:
            return f"chosen by hand: {front[i].sec_obj:g} {objective}"
        return (f"{i + 1} of {len(front)} by ascending {objective}: {front[i].sec_obj:g} "
                f"{objective}")

    return [Card(name, settings["dataset"],
                 {"supernet": str(settings["supernet_path"]),
                  "place on the front": place(i)}, (), commands)
            for name, i in zip(names, chosen, strict=True)]


def with_accuracies(cards: Sequence[Card], records: Sequence[Record], n_images: int,
                    scores: "Scores | None") -> list[Card]:
    """Returns the cards with what the search measured, and what `--rescore` did: the accuracy, and
    whether the images tell each network from its neighbours.

    Args:
        cards, records: of the same networks.
        n_images: that the search scored on.
        scores: of the same networks, or None.
    """
    pairs = [] if scores is None else [f"Unseen images: {line}." for line in scores.pair_lines()]
    finished = []
    for i, (card, record) in enumerate(zip(cards, records, strict=True)):
        rows = [Accuracy("validation images", n_images, 100 - record.top1_err, CHOSEN_BY)]
        notes = pairs[max(i - 1, 0):i + 1]  # against the one before, and the one after it
        if scores is None:
            notes = ["Its accuracy on images that chose nothing was not measured: "
                     f"`{program('post_search.py')} --rescore` does."]
        else:
            rows.append(Accuracy(scores.images, scores.n_images, scores.top1[i], UNSEEN))
        finished.append(replace(card, accuracies=rows, notes=notes))
    return finished
