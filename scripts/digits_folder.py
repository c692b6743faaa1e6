"""Writes scikit-learn's handwritten digits as PNG files: a folder of pictures to try things with.

The folder has `train/<class>` (1,197 pictures) and `test/<class>` (600), as your own would.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli.scripts import Parser, run_script
from cli.types import count
from utils.errors import UserError


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    p = Parser(prog="scripts/digits_folder.py", description=(__doc__ or "").partition("\n")[0])
    p.add_argument("folder", help="where to; must not exist")
    p.add_argument("--size", type=count(8, 512), default=32, help="width in pixels (default: 32)")
    return p


def main(args: argparse.Namespace) -> None:
    """Writes the pictures and prints how many."""
    from PIL import Image

    from data_providers.datasets import load_digits

    root, n = Path(args.folder), 0
    if root.exists():
        raise UserError(f"{root}: exists already; name a new folder")
    for split in ("train", "test"):
        images = load_digits(split)
        for index, label in enumerate(images.targets.tolist()):
            path = root / split / f"digit-{label}" / f"{index:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            images.read(index).resize((args.size, args.size), Image.Resampling.BICUBIC).save(path)
            n += 1
    print(f"{root}: {n} pictures of 10 classes")


if __name__ == "__main__":
    sys.exit(run_script(main, get_args_parser()))
