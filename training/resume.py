"""How a run is resumed: from a checkpoint, by a command that an interrupted run prints."""

import argparse
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from networks.checkpoints import load_training_state
from training.checkpoints import LAST, History, read_history
from training.flags import launcher
from training.run import Run
from training.run_files import Output
from training.world import World, launched
from utils.invocation import calling


def resume_run(run: Run, path: str | None) -> History | None:
    """Continues a `training.run.Run` from a checkpoint; returns the record of its best ones.

    Raises:
        UserError: no checkpoint of a training, or one of another network.
    """
    if path is None:
        return None
    state = load_training_state(path)
    history = read_history(state.get("saver"), path)
    run.resume(state, path)
    return history


@contextmanager
def resuming(output: Output, script: str, data: str | None = None) -> Iterator[None]:
    """Inside, Ctrl-C prints the command that resumes the run, where it has a checkpoint.

    Args:
        output: the run's; of several processes the first one prints.
        script: the command, such as `train_cifar.py`.
        data: a folder that must be typed again.

    Raises:
        KeyboardInterrupt: with the command as its text.
    """
    try:
        yield
    except KeyboardInterrupt:
        words = output.folder and resume_flags(output.run.args, output.folder, output.saved)
        if not words:
            raise
        words = [*([data] if data else []), *words]
        raise KeyboardInterrupt(resume_hint(script, words, output.run.world)) from None


def resume_flags(args: argparse.Namespace, folder: Path, saved: bool) -> list[str]:
    """Returns the flags that resume an interrupted run; none where it has no checkpoint.

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


def resume_hint(script: str, words: list[str], world: World) -> str:
    """Returns what to do: a command, or for processes of several machines the flags to add."""
    if world.size == 1:
        return f"resume with: {shlex.join([*calling(script), *words])}"
    place = launched(os.environ)
    if place is None or place.local_size != world.size:
        return f"start it on each machine as before, with: {shlex.join(words)}"
    return f"resume with: {shlex.join([*launcher(script, world.size), *words])}"
