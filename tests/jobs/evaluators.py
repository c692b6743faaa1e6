"""Evaluators that do what the test asks for; workers build them as `tests.jobs.evaluators:Name`."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

from evaluator.base import Evaluator
from utils.errors import UserError


def grandchild() -> int:
    """Starts a process that sleeps for long; returns its id."""
    return subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]).pid


def channel() -> int:
    """The descriptor on which this worker's answers leave: a pipe, but not stdin or the log."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}"):  # not the listing's own
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                return fd
    raise LookupError("no channel")


def page_faults(times: int = 8) -> int:
    """Returns how many pages this process gets for an array of 64 MiB, made and freed `times`."""
    import numpy as np

    np.ones(2**23)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def note(folder: str, text: str) -> None:
    """Appends a line to the folder's `notes` (atomic for short lines)."""
    with open(Path(folder) / "notes", "a") as file:
        file.write(text + "\n")


class Obedient(Evaluator):
    """Does what `arch["do"]` says, with `arch["with"]` as its argument."""

    def __init__(self, **options) -> None:
        self.options = options
        self.jobs = 0

    def evaluate(self, arch: dict, *, batch_scale: float = 1.0) -> dict:
        self.jobs += 1
        stats = {"top1": 50.0, "loss": 1.0, "gpu": None, "pid": os.getpid(), "jobs": self.jobs}
        return stats | (getattr(self, arch["do"])(arch.get("with"), batch_scale) or {})

    def latency(self, arch: dict) -> dict:
        began = time.time()
        time.sleep(arch["with"])
        return {"began": began, "ended": time.time()}

    def sleep(self, seconds, _scale):
        began = time.time()
        time.sleep(seconds)
        return {"began": began, "ended": time.time()}

    def faults(self, _with, _scale):
        return {"faults": page_faults()}

    def seeded(self, seed, _scale):
        return {"top1": (seed * 7919 % 1000) / 10 + 0.1}

    def fail(self, message, _scale):
        raise ValueError(message)

    def odd(self, stats, _scale):
        return stats

    def memory(self, n_bytes, scale):
        return {"got": len(bytearray(int(n_bytes * scale)))}

    def cuda_memory(self, at_scale, scale):
        if scale > at_scale:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return {"scale": scale}

    def die_once(self, mark, _scale):
        if not Path(mark).exists():
            Path(mark).touch()
            print("last words", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def ecc_once(self, mark, _scale):
        if not Path(mark).exists():
            Path(mark).touch()
            raise AcceleratorError("CUDA error: uncorrectable ECC error encountered")
        return {"top1": 1.0}

    def die(self, code, _scale):
        os._exit(code)

    def hang_with_child(self, folder, _scale):
        note(folder, str(grandchild()))
        time.sleep(600)

    def die_with_child(self, folder, _scale):
        note(folder, str(grandchild()))
        os.kill(os.getpid(), signal.SIGKILL)

    def prints(self, n_bytes, _scale):
        print("x" * int(n_bytes), "the end", flush=True)
        files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in (1, 2)]
        return {"files": [file for file in files if file.startswith("/") and "pipe" not in file]}

    def print_and_die(self, n_bytes, _scale):
        self.prints(n_bytes, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    def reads_stdin(self, _with, _scale):
        return {"read": sys.stdin.read(), "child": subprocess.run(
            [sys.executable, "-S", "-c", "import sys; print(len(sys.stdin.read()))"],
            capture_output=True, text=True).stdout}

    def breakpoint(self, _with, _scale):
        breakpoint()

    def leaves(self, reason, _scale):
        sys.exit(reason)

    def long_error(self, n, _scale):
        raise ValueError("x" * n + "the end")

    def full_disk(self, mark, _scale):
        if mark is None or not Path(mark).exists():
            if mark is not None:
                Path(mark).touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/weights")

    def die_with_distant_child(self, folder, _scale):
        code = "import time; time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)
        note(folder, str(child.pid))
        os.kill(os.getpid(), signal.SIGKILL)

    def hang_with_distant_child(self, folder, _scale):
        code = "import time; time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)
        note(folder, str(child.pid))
        time.sleep(600)

    def half_an_answer(self, _argument, _scale):
        os.write(channel(), b'{"status": "ok", "stats": {"top1": 99')
        os.kill(os.getpid(), signal.SIGKILL)

    def garbage(self, _argument, _scale):
        os.write(channel(), b"\x00\xff not an answer\n")

    def environment(self, _argument, _scale):
        return {"environment": {name: os.environ.get(name) for name in
                                ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES")},
                "options": self.options, "torch": "torch" in sys.modules}

    def read_inputs(self, _argument, _scale):
        weights = Path(self.options["supernet_path"])
        return {"path": str(weights), "name": weights.name, "content": weights.read_text(),
                "data": self.options["data"]}

    def torch_threads(self, _argument, _scale):
        import torch
        return {"threads": torch.get_num_threads()}


class AcceleratorError(RuntimeError):
    """As torch raises it."""


class OnAGpu(Obedient):
    """Its pretended GPUs: 2 cannot be used, 3 dies at every job, 5 answers rubbish or an error.

    The jobs that came to a GPU stand in the notes of the folder `data`.
    """

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.gpu = os.environ["CUDA_VISIBLE_DEVICES"]
        if self.gpu == "2":
            raise UserError("the device 'cuda:0' cannot be used: CUDA error: busy")

    def evaluate(self, arch: dict, *, batch_scale: float = 1.0) -> dict:
        note(self.options["data"], self.gpu)
        if self.gpu == "3":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.gpu == "5":
            if arch["with"] % 2:
                self.garbage(None, batch_scale)
            raise AcceleratorError("CUDA error: uncorrectable ECC error encountered")
        time.sleep(0.02)
        return self.seeded(arch["with"], batch_scale) | {
            "gpu": None, "device": self.options["device"], "visible": self.gpu}


class NotADict(Obedient):
    """Returns whatever it is told to."""

    def evaluate(self, arch: dict, *, batch_scale: float = 1.0):
        return arch.get("with")


class Refusing(Obedient):
    """Bad options."""

    def __init__(self, **options) -> None:
        raise UserError("net.pth: no such supernet; check --supernet_path")


class Broken(Obedient):
    """A fault of the program."""

    def __init__(self, **options) -> None:
        raise ZeroDivisionError("a fault in the set-up")


class Endless(Obedient):
    """Is never built."""

    def __init__(self, **options) -> None:
        time.sleep(600)


class Leaving(Obedient):
    """Ends its process while it is built."""

    def __init__(self, **options) -> None:
        sys.exit("no licence")


class Listing(Obedient):
    """Has read the file `data`."""

    def fingerprint(self) -> str:
        return Path(self.options["data"]).read_text()


class DyingInSetup(Obedient):
    """Is killed before it is ready."""

    def __init__(self, **options) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Hungry(Obedient):
    """Wants more memory than its limit while it is built."""

    def __init__(self, **options) -> None:
        self.block = bytearray(2**36)
