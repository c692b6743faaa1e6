"""Names of a package that are imported on first use."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a package whose modules are imported when they are needed.

    A command that only prints its help, or reads a file, then loads no torch. Source: PEP 562.

    Args:
        package: its `__name__`.
        modules: the names that it exports, by the module in it that defines them.
    """
    home = {name: module for module, names in modules.items() for name in names}

    def getattr_of_package(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{home[name]}"), name)

    return getattr_of_package
