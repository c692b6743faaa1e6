"""What the provider does to an image, by torchvision's own steps: a reference for its batches."""

from dataclasses import replace

from torchvision import transforms as tv

from data_providers import DatasetInfo
from data_providers.transforms import eval_geometry, train_geometry


def eval_transform(info: DatasetInfo, resolution: int, name: str | None = None) -> tv.Compose:
    """Returns `eval_geometry` followed by normalisation: PIL -> float tensor (3, r, r)."""
    info = replace(info, eval_resize=name or info.eval_resize)
    return _normalised(eval_geometry(info, resolution), info)


def train_transform(info: DatasetInfo, resolution: int) -> tv.Compose:
    """Returns `train_geometry` followed by normalisation: PIL -> float tensor (3, r, r)."""
    return _normalised(train_geometry(info, resolution), info)


def _normalised(geometry: tv.Compose, info: DatasetInfo) -> tv.Compose:
    return tv.Compose([*geometry.transforms, tv.ToTensor(), tv.Normalize(info.mean, info.std)])
