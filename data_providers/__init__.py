"""Data sets by name: one table, one provider. Importing this loads no torch."""

import importlib
from typing import Any

from data_providers.table import DATASETS, DatasetInfo, get_dataset_info

_LAZY = {"DataProvider": "provider", "build_dataset": "datasets", "count_classes": "datasets",
         "load_images": "datasets", "eval_transform": "transforms",
         "train_transform": "transforms", "Normalise": "transforms"}
__all__ = ["DATASETS", "DatasetInfo", "get_dataset_info", *_LAZY]


def __getattr__(name: str) -> Any:
    """Loads what needs torch when it is first asked for."""
    if name in _LAZY:
        return getattr(importlib.import_module(f"data_providers.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'data_providers' has no attribute {name!r}")
