"""Draws architectures: block diagrams of networks, graphs of cells. Writes SVG and PNG."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli.scripts import Parser, run_script
from cli.types import count, integers

if TYPE_CHECKING:
    from visualization.drawing import Picture


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = Parser(prog="draw.py", description=__doc__)
    p.add_argument("files", nargs="+", metavar="FILE", help="net.subnet, net.config, iter_<i>.stats"
                   " or the folder of a search, of which the three networks of its report are "
                   "drawn; several are aligned")
    p.add_argument("--pick", **integers(0), help="numbers of networks in a search's archive, "
                   "instead of those of its report")
    p.add_argument("--save", default="architecture.svg",
                   help="the .svg or .png; the other is written next to it (default: "
                   "architecture.svg)")
    p.add_argument("--supernet_path", help="supernet of a net.subnet: its name holds the width "
                   "(default: 1.0)")
    p.add_argument("--n_classes", type=count(1), default=1000,
                   help="classes of a net.subnet (default: 1000)")
    p.add_argument("--search_space", help="search space where the files do not name it, or code of "
                   "your own as module:Class (default: mbv3)")
    return p


def main(args: argparse.Namespace) -> None:
    """Writes the drawing."""
    from visualization.drawing import write_drawing

    pictures = [picture for file in args.files for picture in pictures_of(Path(file), args)]
    for path in write_drawing(args.save, pictures):
        print(path)


def pictures_of(path: Path, args: argparse.Namespace) -> "list[Picture]":
    """Returns what is drawn of one file.

    Raises:
        UserError: the file is missing, damaged, or not of a kind that can be drawn.
    """
    from search_space import get_search_space, read_subnet
    from search_space.backbones import width_from_name
    from visualization import sources

    if path.is_dir() or path.suffix == ".stats":
        return sources.of_search(path, args.pick, args.search_space)
    title = f"{path.parent.name}/{path.name}" if path.parent.name else path.name
    if path.suffix == ".config":
        return [sources.of_config(path, title)]
    arch, name = read_subnet(path, args.search_space)
    resolutions = [arch["r"]] if "r" in arch else None
    space = get_search_space(name, resolutions=resolutions)
    return [sources.of_arch(space, arch, title, args.n_classes,
                            width_from_name(args.supernet_path or ""))]


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
