"""What all scripts share: how a command line is parsed, and how errors become exit codes."""

import argparse
import contextlib
import difflib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from cli.startup import EXIT_INTERRUPTED, open_streams, quit_quietly

from cli.version import VersionAction
from utils.errors import UserError, describe_os_error, is_out_of_memory, one_line
from utils.packages import advice, is_installed

EXIT_BAD_INPUT = 2
# What other programs call a flag -> what it may be called here; the first that a command has is
# suggested where the flag is unknown.
SYNONYMS = {
    "objective": ("sec_obj",), "objectives": ("sec_obj",), "metric": ("sec_obj",),
    "budget": ("iterations",), "trials": ("iterations",), "generations": ("iterations",),
    "steps": ("iterations", "epochs"), "width": ("supernet_path",), "width_mult": ("width",),
    "supernet": ("supernet_path", "pretrained"), "epochs": ("n_epochs",), "n_epochs": ("epochs",),
    "population": ("n_doe",), "init_samples": ("n_doe",), "space": ("search_space",),
    "algorithm": ("strategy",), "output": ("save", "out"), "out": ("save", "output"),
    "outdir": ("save", "output"), "checkpoint": ("pretrained", "initial_checkpoint", "resume"),
    "image_size": ("img_size", "resolution", "resolutions"), "classes": ("n_classes",),
    "num_classes": ("n_classes",), "gpus": ("n_gpus",), "num_workers": ("n_workers", "workers"),
    "latency_table": ("lut",), "csv": ("table",)}
EXIT_CLOSED_PIPE = 141


def run_script(main: Callable[[argparse.Namespace], object],
               parser: argparse.ArgumentParser, argv: list[str] | None = None) -> int:
    """Parses the command line, calls `main(args)`, and returns the exit code.

    `UserError`, a package that is not installed, errors of the file system and a lack of memory
    become one line on stderr and exit code 2, Ctrl-C becomes 130, and a reader of the output that
    has left (`| head`) a quiet 141. Anything else is a fault of the program and keeps its
    traceback.
    """
    open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold bytes that are no UTF-8
            stream.reconfigure(errors="backslashreplace")
    args = parser.parse_args(argv)
    if signal.getsignal(signal.SIGINT) is quit_quietly:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main(args)
        _flush_output()
    except UserError as error:
        message = str(error)
    except KeyboardInterrupt as interrupt:
        _say(f"\n{parser.prog}: interrupted{one_line(interrupt) and f'; {one_line(interrupt)}'}")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            _flush_output()
        return EXIT_CLOSED_PIPE
    except ModuleNotFoundError as error:
        if is_installed((error.name or "sys").partition(".")[0]):
            raise
        message = f"the package {error.name} is not installed; {advice(error.name or '')}"
    except OSError as error:
        if error.errno is None:
            raise
        message = describe_os_error(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = ("out of memory: choose smaller batches, images or networks, or a machine with "
                   f"more ({str(error).splitlines()[0] if str(error) else 'no reason given'})")
    else:
        return 0
    _say(f"{parser.prog}: error: {one_line(message)}")
    return EXIT_BAD_INPUT


def _say(text: str) -> None:
    """Prints to stderr, as far as it can be written: the exit code tells the same."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)


def _flush_output() -> None:
    """Flushes stdout; what cannot be written is thrown away, or Python would try again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to a flag's help, where there is one that the help does not name itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        absent = (action.default is None or action.default is False) and "None:" not in text
        return text if "(default" in text or absent else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A parser that ends with one line and exit code 2: a long usage would hide what is wrong.

    Flags must be written out: an abbreviation would change its meaning when a flag is added. `-`
    and `_` within a flag are the same; the help shows the one that the flag was defined with.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": HelpFormatter, **options})
        self.add_argument("--version", action=VersionAction, help="print the versions of the "
                          "program, Python and packages, and the devices, and exit")

    def error(self, message: str) -> NoReturn:
        """Prints what is wrong and exits."""
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: error: {one_line(message)}; see --help\n")

    def parse_args(  # type: ignore[override]  # the base class has overloads
            self, args: Any = None, namespace: Any = None) -> argparse.Namespace:
        """Parses as usual, after an unknown flag, which may hide a missing one, is refused.

        Adds `typed`, the set of the names of the values on the command line: a resumed run takes
        the others from where it stored them.
        """
        words = [*(sys.argv[1:] if args is None else args)]
        end = words.index("--") if "--" in words else len(words)
        words = [*map(self._spelled, words[:end]), *words[end:]]
        parsed = super().parse_args(words, namespace)
        untyped = object()
        probe = argparse.Namespace(**dict.fromkeys(vars(parsed), untyped))
        super().parse_args(words, probe)
        parsed.typed = {name for name, value in vars(probe).items() if value is not untyped}
        return parsed

    def spelling(self, flag: str) -> str | None:
        """Returns how a flag, typed with `-` or `_`, is defined; None where there is none."""
        known = {name.replace("_", "-"): name for name in self._option_string_actions}
        return known.get(flag.replace("_", "-"))

    def add_aliases(self, aliases: Mapping[str, str]) -> None:
        """Lets other names stand for flags: `{"--grad_clip": "--clip-grad"}`."""
        for alias, flag in aliases.items():
            action = self._option_string_actions[flag]
            action.option_strings = [*action.option_strings, alias]
            self._option_string_actions[alias] = action

    def _spelled(self, word: str) -> str:
        """Returns a word of the command line, a flag as it is defined; ends at an unknown one."""
        name, equals, value = word.partition("=")
        if not re.fullmatch(r"--[A-Za-z]\S*", name):
            return word
        flag = self.spelling(name)
        if flag is None:
            meant = SYNONYMS.get(name.lstrip("-").replace("-", "_").lower(), ())
            close = [*filter(None, map(self.spelling, (f"--{flag}" for flag in meant))),
                     *difflib.get_close_matches(name, self._option_string_actions, n=1)]
            hint = f"; did you mean {close[0]}?" if close else ""
            self.error(f"unknown flag {name}{hint}")
        return f"{flag}{equals}{value}"


def add_flags(group: Any, table: Mapping[str, Mapping[str, Any]], *flags: str,
              **defaults: Any) -> None:
    """Adds flags that several commands share to a parser, or to a group of one.

    Args:
        group: what they are added to.
        table: the options of `add_argument`, by the name of the value.
        flags: which, as this command spells them: `--vld_size` or `--vld-size`.
        defaults: of this command, where they are not the table's, by the name of the value.
    """
    for flag in flags:
        name = flag.lstrip("-").replace("-", "_")
        changed = {"default": defaults[name]} if name in defaults else {}
        group.add_argument(flag, **{**table[name], **changed})
