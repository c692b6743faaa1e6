"""Search spaces: architecture dict <-> integer vector. Free of torch."""

import os

from search_space.base import Arch, SearchSpace
from search_space.ofa import OFASearchSpace
from utils.errors import UserError
from utils.files import read_json

__all__ = ["RESOLUTIONS", "SEARCH_SPACES", "Arch", "OFASearchSpace", "SearchSpace", "check_arch",
           "get_search_space", "read_arch"]

RESOLUTIONS = range(8, 4097)
SEARCH_SPACES: dict[str, type[SearchSpace]] = {OFASearchSpace.name: OFASearchSpace}


def get_search_space(name: str, **options) -> SearchSpace:
    """Returns the search space called `name`; `options` go to its class.

    Raises:
        UserError: no such space; the message lists them.
    """
    if name not in SEARCH_SPACES:
        raise UserError(f"unknown search space {name!r}; choose from "
                        f"{', '.join(sorted(SEARCH_SPACES))}")
    return SEARCH_SPACES[name](**options)


def check_arch(arch: Arch, space: SearchSpace | None = None) -> Arch:
    """Returns a checked copy of an architecture dict.

    With a `space` the architecture must belong to it. Without one it must belong to the OFA
    MobileNetV3 space, with the resolution taken as it is.

    Raises:
        UserError: it does not.
    """
    if space is None:
        r = arch.get("r") if isinstance(arch, dict) else None
        if isinstance(r, bool) or not isinstance(r, int) or r not in RESOLUTIONS:
            raise UserError(f"'r', the input resolution, must be {RESOLUTIONS[0]}.."
                            f"{RESOLUTIONS[-1]}, not {str(r)[:60]!r}")
        space = OFASearchSpace(resolutions=[r])
    return space.decode(space.encode(arch))


def read_arch(path: str | os.PathLike, space: SearchSpace | None = None) -> Arch:
    """Reads a `net.subnet` file: one architecture dict in JSON, checked as by `check_arch`.

    Raises:
        UserError: the file is missing or damaged, or is no architecture of the space.
    """
    arch = read_json(path, "subnet file")
    try:
        return check_arch(arch, space)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
