"""How a run that was interrupted goes on: the command, ready to be pasted."""

import argparse
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from training.checkpoints import LAST
from training.world import World, launched
from utils.invocation import calling

if TYPE_CHECKING:
    from training.run_files import Output

# Flags of one call, which are not those of the run.
OF_THE_CALL = ("start_epoch", "no_resume_opt")


@contextmanager
def telling_how(output: "Output", script: str, data: str | None = None) -> Iterator[None]:
    """Inside, Ctrl-C tells how to go on, where there is something to go on from.

    Args:
        output: the run's; of several processes the first one tells.
        script: what was called, such as `train_cifar.py`.
        data: a folder that must be typed again.

    Raises:
        KeyboardInterrupt: with the command as its text.
    """
    try:
        yield
    except KeyboardInterrupt:
        files = output.files
        words = files and flags_to_go_on(output.run.args, files.folder, files.saved)
        if not words:
            raise
        words = [*([data] if data else []), *words]
        raise KeyboardInterrupt(how_to_go_on(script, words, output.run.world)) from None


def flags_to_go_on(args: argparse.Namespace, folder: Path, saved: bool) -> list[str]:
    """Returns the flags that go on with an interrupted run; none where it has no checkpoint.

    Args:
        args: the flags of this call.
        folder: of the run.
        saved: whether this call has finished an epoch, whose checkpoint is then the last one.
    """
    repeated = bool(args.resume) and not saved
    source = Path(args.resume) if repeated else folder / LAST
    if not source.is_file():
        return []
    again: list[str] = []
    if repeated and args.start_epoch is not None:
        again += ["--start-epoch", str(args.start_epoch)]
    if repeated and args.no_resume_opt:
        again.append("--no-resume-opt")
    return ["-c", str(folder / "args.yaml"), "--resume", str(source), *again]


def how_to_go_on(script: str, words: list[str], world: World) -> str:
    """Returns what to do: a command, or for processes of several machines the flags to add."""
    if world.size == 1:
        return f"go on with: {shlex.join([*calling(script), *words])}"
    place = launched(os.environ)
    if place is None or place.local_size != world.size:
        return f"start it on each machine as before, with: {shlex.join(words)}"
    return f"go on with: {shlex.join([*launcher(script, world.size), *words])}"


def launcher(script: str, n: int) -> list[str]:
    """Returns the words that start `n` processes of a script on this machine."""
    words = calling(script)
    if words[0] != "python":  # an installed package has no scripts/
        return ["python", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n),
                "--no-python", *words]
    return [f"SCRIPT={script}", "sh", "scripts/distributed_train.sh", str(n)]
