"""Names -> what they stand for: rows of a registry, `module:Class` of the user's, lazy exports."""

import importlib
import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from utils.errors import UserError, worded

T = TypeVar("T")

# `timm:NAME` is the search space of a network that timm knows, no code of the user's.
TIMM = "timm:"
# `evoxbench:PROBLEM` is the search space of a problem of EvoXBench.
EVOXBENCH = "evoxbench:"


def names_code(value: Any) -> bool:
    """Whether the value of a flag names code, `module:Class`; `energy:max` is an objective."""
    return isinstance(value, str) and not value.startswith((TIMM, EVOXBENCH)) and any(
        colon and name not in ("min", "max")
        for _, colon, name in (part.partition(":") for part in value.split("+")))


def code_in(values: Mapping[str, Any], flags: Iterable[str]) -> dict[str, str]:
    """Returns which of these flags name code, and what."""
    return {name: values[name] for name in flags if names_code(values.get(name))}


def as_typed(flags: Mapping[str, str | list[str]]) -> list[str]:
    """Returns the words of flags on a command line."""
    return [word for name, value in flags.items()
            for word in (f"--{name}", *([value] if isinstance(value, str) else value))]


def refuse_untyped(source: object, found: Mapping[str, str | list[str]],
                   typed: Collection[str]) -> None:
    """Refuses settings of a file that only a person may choose: each of them must be typed.

    Args:
        source: the file or its folder, for the message.
        found: by the names of flags: code that would be run, a cluster, a download; a list holds
            commands.
        typed: the flags on the command line.

    Raises:
        UserError: some of `found` were not typed; the message ends with these flags, to paste.
    """
    untyped = {name: value for name, value in found.items() if name not in typed}
    if untyped:
        runs = any(isinstance(value, list) or names_code(value) for value in untyped.values())
        what = "name code, which would be run" if runs else \
            "ask for something whose answers or files would be trusted"
        flags = shlex.join([word[:1000] for word in as_typed(untyped)])
        arguments = ", ".join(f"{name}={repr(value)[:1000]}" for name, value in untyped.items())
        raise UserError(f"{source}: its settings {what}; if you trust it, " + worded(
            f"type again: {flags}", f"give it again: {arguments}"))


def why_not_imported(error: Exception) -> str:
    """Returns why code of the user's was not imported, and where a module was looked for."""
    if not isinstance(error, ModuleNotFoundError):
        return str(error)
    named = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    places = dict.fromkeys([*sys.path[:1], *named, os.getcwd()])
    return f"{error}; looked for in {', '.join(places)} and the installed packages; name its " \
        "folder in PYTHONPATH"


@contextmanager
def current_folder_last() -> Iterator[None]:
    """Lets a module that somebody typed be found in the current folder, if it is nowhere else."""
    before = sys.path
    sys.path = [*before, os.getcwd()]
    try:
        yield
    finally:
        sys.path = before


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
        with current_folder_last():
            found = getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError, TypeError) as error:
        if name in registry:
            raise
        raise UserError(f"no {kind} {name!r}: {why_not_imported(error)}") from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{name!r} is no {kind}: {attribute} must be a class derived from "
                        f"{base.__name__}")
    return found


def get_row(rows: Mapping[str, T], name: str, kind: str) -> T:
    """Returns `rows[name]`; raises UserError, which lists the names, where there is no such row."""
    if name not in rows:
        raise UserError(f"unknown {kind} {name!r}; choose from {', '.join(rows)}")
    return rows[name]


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


def name_in(registry: Mapping[str, str], made: object) -> str:
    """Returns the name by which `load_class` finds the class of an object."""
    own = f"{type(made).__module__}:{type(made).__qualname__}"
    return next((name for name, row in registry.items() if row == own), own)


def listed(registry: Iterable[str]) -> str:
    """Returns what a help text lists for a flag that names a row, or code of the user's."""
    return f"{', '.join(sorted(registry))}, or module:Class"
