"""Names of the command line -> classes: a row of a registry, or `module:Class` of the user's."""

import importlib
from collections.abc import Mapping
from typing import Any

from utils.errors import UserError


def load_class(registry: Mapping[str, str], name: str, kind: str, base: type = object) -> Any:
    """Imports and returns the class that `name` stands for.

    Args:
        registry: name -> "module:Class".
        name: a key of the registry, or `module:Class`.
        kind: what the registry holds, for messages: "search space".
        base: what the class must be derived from.

    Raises:
        UserError: no such name, module or class, or a class of another kind.
    """
    module, colon, attribute = registry.get(name, name).partition(":")
    if not (module and colon and attribute):
        raise UserError(f"unknown {kind} {name!r}; choose from {', '.join(sorted(registry))}, or "
                        "name your own as module:Class")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError, TypeError) as error:
        if name in registry:
            raise
        raise UserError(f"no {kind} {name!r}: {error}") from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{name!r} is no {kind}: {attribute} must be a class derived from "
                        f"{base.__name__}")
    return found
