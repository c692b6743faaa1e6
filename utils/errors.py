"""One kind of error for bad input; warnings and notes; one line for what the system refuses."""

import errno
import os
import re
import sys

_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space and try again",
    errno.EDQUOT: "the disk quota is used up; free some space and try again",
    errno.EFBIG: "the file-size limit is reached (ulimit -f); raise it and try again",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; choose another folder or change its permissions",
    errno.EPERM: "permission denied; choose another folder or change its permissions",
}
_MACHINE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ESTALE,
                   errno.EMFILE, errno.ENFILE)
# From torch's messages, in errors of several types.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc",
                  "storage size calculation overflowed", "cudnn_status_alloc_failed",
                  "cublas_status_alloc_failed")


_FLAG = re.compile(r"(?<![\w-])--([A-Za-z][\w-]*)")
# Flags whose argument in Python has another name.
_ARGUMENTS = {"save": "folder", "sec_obj": "objectives", "lut": "luts", "width": "width_mult",
              "constraint": "constraints", "gpu": "gpus_per_job"}
_for_programs = False


def name_arguments() -> None:
    """Lets the messages of this process name arguments instead of flags: a program reads them."""
    global _for_programs
    _for_programs = True


def worded(command: str, program: str | None = None) -> str:
    """Returns a text for those who read it: they type flags, or write a program (`msunas_cli`).

    Args:
        command: the text with flags.
        program: the text without; None replaces each flag by the name of its argument.
    """
    if not _for_programs:
        return command
    return program if program is not None else _FLAG.sub(
        lambda flag: _ARGUMENTS.get(flag[1], flag[1].replace("-", "_")), command)


class UserError(Exception):
    """Bad input: the message says what is wrong, where, and what to do, in one line."""

    def __str__(self) -> str:
        return worded(super().__str__())


def warn(text: str) -> None:
    """Prints a warning on stderr."""
    print(f"warning: {worded(text)}", file=sys.stderr)


def note(text: str) -> None:
    """Prints on stderr what is worth knowing."""
    print(f"note: {worded(text)}", file=sys.stderr)


def one_line(text: object) -> str:
    """Returns `text` on a single line: control characters, as in odd paths, are escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def shortened(text: str, limit: int) -> str:
    """Returns both ends of a text of more than `limit` characters."""
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"


def describe_os_error(error: OSError) -> str:
    """Returns one line for a failed system call: the file, the reason, and what to do."""
    reason = _DISK_ERRORS.get(error.errno or 0) or os.strerror(error.errno or 0)
    return f"{error.filename or 'writing'}: {reason}"


def is_machine_fault(error: BaseException) -> bool:
    """Whether a disk is full or gone, or a limit of the system is reached."""
    return isinstance(error, OSError | RuntimeError) and (
        getattr(error, "errno", None) in _MACHINE_FAULTS
        or any(os.strerror(number).lower() in str(error).lower() for number in _MACHINE_FAULTS))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the host or on a GPU."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError | OSError) and any(t in text for t in _OUT_OF_MEMORY))
