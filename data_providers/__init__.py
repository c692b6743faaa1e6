"""Data sets by name: one table, one provider. Importing this loads no torch."""

from data_providers.table import DATASETS, DatasetInfo, get_dataset_info
from utils.registry import lazy_names

_MODULES = {
    "datasets": ("count_classes", "load_images"),
    "provider": ("DataProvider",),
    "transforms": ("Normalise",),
}

__all__ = ["DATASETS", "DatasetInfo", "get_dataset_info",
           *(name for names in _MODULES.values() for name in names)]
__getattr__ = lazy_names(__name__, _MODULES)
