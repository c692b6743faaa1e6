"""Search spaces: architecture dict <-> integer vector. Free of torch."""

import os
from typing import Any

from search_space.base import Arch, Gene, SearchSpace
from search_space.evoxbench import evoxbench_space
from search_space.layers import Layer, Slot
from search_space.ofa import OFASearchSpace
from search_space.timm_chain import timm_space
from search_space.values import SPACE_KEY, without_wrapping
from utils.errors import UserError
from utils.files import read_json
from utils.registry import EVOXBENCH, TIMM, listed, load_class, name_in, names_code

__all__ = ["NAMES", "RESOLUTIONS", "SEARCH_SPACES", "SPACE_KEY", "Arch", "Gene", "Layer",
           "OFASearchSpace", "SearchSpace", "Slot", "check_arch", "family_of", "get_search_space",
           "name_of", "read_arch", "read_subnet", "refuse_code", "search_space_class", "space_of"]

RESOLUTIONS = range(8, 4097)
# The space of files without `SPACE_KEY`.
DEFAULT = "mbv3"
# name -> "module:Class"
SEARCH_SPACES = {
    "mbv3": "search_space.ofa:OFASearchSpace",
    "proxyless": "search_space.proxyless:ProxylessSearchSpace",
    "resnet50": "search_space.resnet:ResNetSearchSpace",
    "nasbench101": "search_space.nasbench101:NASBench101Space",
    "nasbench201": "search_space.nasbench201:NASBench201Space",
    "nasbenchgraph": "search_space.nasbenchgraph:NASBenchGraphSpace",
    "table": "search_space.table:TableSearchSpace",
}
# What a help text lists.
NAMES = listed([*SEARCH_SPACES, f"{TIMM}NAME (a network of timm)",
                f"{EVOXBENCH}PROBLEM (of EvoXBench)"])


def search_space_class(name: str) -> type[SearchSpace]:
    """Returns the class of a space.

    Args:
        name: of `SEARCH_SPACES`, `timm:NAME`, `evoxbench:PROBLEM`, or `module:Class`.

    Raises:
        UserError: no such space; the message lists them.
    """
    if name.startswith(TIMM):
        return timm_space(name)
    if name.startswith(EVOXBENCH):
        return evoxbench_space(name)
    return load_class(SEARCH_SPACES, name, "search space", SearchSpace)


def get_search_space(name: str, /, **settings: Any) -> SearchSpace:
    """Returns the search space called `name`; see `search_space_class`.

    Args:
        name: which space.
        settings: of them, those that the class names in its `options` go to its constructor;
            None stands for the class's own default.

    Raises:
        UserError: no such space; the message lists them. Or a bad setting.
    """
    space_class = search_space_class(name)
    return space_class(**{option: settings[option] for option in space_class.options
                          if settings.get(option) is not None})


def family_of(name: str) -> str:
    """Returns the family of networks that a space is of, a row of `networks.families.FAMILIES`.

    Raises:
        UserError: no such space, or one without a supernet.
    """
    family = search_space_class(name).family
    if family is None:
        raise UserError(f"the search space {name} has no supernet; choose another, or an "
                        "evaluator for it (--evaluator)")
    return family


def name_of(space: SearchSpace) -> str:
    """Returns the name by which `get_search_space` finds the class of a space."""
    if space.name.startswith((TIMM, EVOXBENCH)):
        return space.name
    return name_in(SEARCH_SPACES, space)


def space_of(arch: Any, name: str | None = None) -> SearchSpace:
    """Returns the space of an architecture dict, with the architecture's own resolution.

    Args:
        arch: the dict. Its key `search_space` names its space; without it that is `mbv3`.
        name: the space that it must belong to; None takes the one that the dict names.

    Raises:
        UserError: the dict names another space or none that exists, or its resolution is none.
    """
    arch = without_wrapping(arch)
    named = arch.get(SPACE_KEY) if isinstance(arch, dict) else None
    if named is not None and not isinstance(named, str):
        raise UserError(f"{SPACE_KEY!r} must be the name of a search space, not {named!r:.60}")
    _check_name(named, name)
    if name is None:
        refuse_code(named, "the architecture")
    name = name or named or DEFAULT
    if "resolutions" not in search_space_class(name).options:
        return get_search_space(name)
    r = arch.get("r") if isinstance(arch, dict) else None
    if isinstance(r, bool) or not isinstance(r, int) or r not in RESOLUTIONS:
        raise UserError(f"'r', the input resolution, must be an integer in "
                        f"{RESOLUTIONS[0]}..{RESOLUTIONS[-1]}, not {r!r:.60}")
    return get_search_space(name, resolutions=[r])


def check_arch(arch: Arch, space: SearchSpace | str | None = None) -> Arch:
    """Returns a checked copy of an architecture dict.

    With a space the architecture must belong to it. With the name of a space, or without any (the
    dict's own, else `mbv3`), the resolution is taken as it is.

    Raises:
        UserError: the dict is no architecture of the space, or names another one.
    """
    if not isinstance(space, SearchSpace):
        space = space_of(arch, space)
    elif isinstance(arch, dict):
        _check_name(arch.get(SPACE_KEY), name_of(space))
    return space.decode(space.encode(arch))


def read_arch(path: str | os.PathLike, space: SearchSpace | str | None = None) -> Arch:
    """Reads a `net.subnet` file: one architecture dict in JSON, checked as by `check_arch`.

    Raises:
        UserError: the file is missing or damaged, or is no architecture of the space.
    """
    arch = read_json(path, "subnet file")
    try:
        return check_arch(arch, space)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read_subnet(path: str | os.PathLike, name: str | None = None) -> tuple[Arch, str]:
    """Reads a `net.subnet` file; returns the architecture, checked, and the name of its space.

    Args:
        path: the file.
        name: the space that it must belong to; None takes the one that the file names, else `mbv3`.

    Raises:
        UserError: as `read_arch`.
    """
    content = read_json(path, "subnet file")
    named = content.get(SPACE_KEY) if isinstance(content, dict) else None
    if name is None:
        refuse_code(named, str(path))
    return read_arch(path, name), name or named or DEFAULT


def refuse_code(named: Any, source: str) -> None:
    """Refuses a search space that is code of the user's, `module:Class`, where a file names it.

    Raises:
        UserError: it is; the message names the flag to type.
    """
    if names_code(named):
        raise UserError(f"{source} names code, the search space {named[:60]}, which would be run; "
                        f"if you trust it, type --search_space {named[:60]}")


def _check_name(named: str | None, expected: str | None) -> None:
    if named is not None and expected is not None and named != expected:
        raise UserError(f"the architecture belongs to the search space {named!r:.60}, not to "
                        f"{expected!r}")
