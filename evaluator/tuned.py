"""What a fine-tuning leaves for timm: its best network, scored, with a model card."""

from pathlib import Path
from typing import TYPE_CHECKING

from evaluator.model_card import HUB, Accuracy, Card, Preprocessing, give_to_timm

if TYPE_CHECKING:
    from data_providers import DataProvider

CHOSEN_BY = "the fine-tuning chose its best epoch by them"
UNSEEN = "nothing in this fine-tuning"


def write_tuned_hub(folder: Path, provider: "DataProvider", resolution: int, *,
                    device: str, title: str, command: str) -> None:
    """Writes `hub/` next to `net.config` and `net.init`, the best network; a note says why not.

    It is scored on the test images, where others chose the best epoch, else on those.

    Args:
        folder: of the run.
        provider: its images, with the transform that the network was tuned with.
        resolution: of the images in pixels.
        device: that scores.
        title: the network's name.
        command: of the fine-tuning.
    """
    from data_providers.datasets import has_split
    from networks import build_from_config, load_weights, read_config
    from training.loops import evaluate

    if not (folder / "net.init").exists():  # no epoch was finished
        return
    net = build_from_config(read_config(folder / "net.config")).to(device)
    load_weights(net, folder / "net.init")
    held_out = provider.holds_out_validation
    split, role = ("test", UNSEEN) if held_out and has_split(
        provider.info.name, provider.path, "test") else ("valid", CHOSEN_BY)
    figures = evaluate(net, provider.eval_batches(split, resolution, device=device))
    name = "test images" if split == "test" or not held_out else "validation images"
    card = Card(title, provider.info.name, {},
                [Accuracy(name, int(figures["n_images"]), figures["top1"], role)],
                {"fine-tuning": command})
    give_to_timm(net, folder / HUB, Preprocessing.of(resolution, provider.facts()), card)
