"""Predictions for pictures whose labels nobody knows."""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from data_providers import pictures
from data_providers.table import DatasetInfo
from data_providers.transforms import Normalise, eval_geometry
from utils.errors import UserError, one_line

TOP = 5


class Prediction(NamedTuple):
    """What a network predicts for one picture.

    Attributes:
        path: the picture.
        classes: the names of the likeliest classes, best first.
        probabilities: theirs, 0..1.
    """

    path: str
    classes: list[str]
    probabilities: list[float]


def picture_files(path: str | os.PathLike) -> list[str]:
    """Returns the picture `path`, or all below the folder `path`, sorted; see `list_pictures`.

    Raises:
        UserError: there is nothing, or no picture in the folder.
    """
    if not os.path.exists(path):
        raise UserError(f"{path}: no such picture or folder")
    if not os.path.isdir(path):
        return [str(path)]
    found, others = pictures.list_pictures(path)
    if not found:
        raise UserError(f"{path}: no picture in this folder ({', '.join(pictures.FORMATS)})")
    pictures.warn_of_others(path, others, len(found) + len(others))
    return sorted(found)


def predict(net: nn.Module, files: Sequence[str], info: DatasetInfo, names: Sequence[str],
            resolution: int, device: torch.device, batch_size: int = 32) -> Iterator[Prediction]:
    """Yields a prediction for each picture; one that cannot be decoded is named on stderr.

    Args:
        net: a classifier in eval mode, on the device.
        files: the pictures.
        info: its mean, std and evaluation transform.
        names: of the classes, by label.
        resolution: height and width that the network takes, in pixels.
        device: where the network is.
        batch_size: pictures in one pass.
    """
    geometry = eval_geometry(info, resolution)
    normalise = Normalise(info.mean or (), info.std or (), device)
    for start in range(0, len(files), batch_size):
        part = [(path, np.asarray(picture)) for path in files[start:start + batch_size]
                if (picture := _read(path, geometry)) is not None]
        if not part:
            continue
        pixels = torch.from_numpy(np.stack([picture for _, picture in part]))
        images = normalise(pixels)
        with torch.inference_mode():
            best = net(images).softmax(dim=1).topk(min(TOP, len(names)))
        for (path, _), values, labels in zip(part, best.values.tolist(), best.indices.tolist(),
                                             strict=True):
            yield Prediction(path, [names[label] for label in labels], values)


def _read(path: str, geometry: nn.Module) -> object:
    try:
        return geometry(pictures.read_picture(path))
    except pictures.DAMAGED as error:
        print(f"warning: {one_line(path)}: cannot be read as a picture ({one_line(error)}), left "
              "out", file=sys.stderr)
        return None
