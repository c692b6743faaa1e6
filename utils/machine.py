"""What this machine has; found out without torch."""

import platform
import sys
from pathlib import Path

# What a driver leaves in /dev on a machine with a GPU.
_DRIVERS = ("nvidia[0-9]*", "dxg", "kfd", "accel/accel[0-9]*", "dri/renderD*")


def cpu_name() -> str:
    """Returns the model of this machine's CPU."""
    names = _values(Path("/proc/cpuinfo"), "model name")
    return names[0] if names else platform.processor() or platform.machine()


def has_gpu_driver() -> bool:
    """Whether there may be a GPU: a driver has left its files, or it is a Mac."""
    return sys.platform == "darwin" or any(
        found for pattern in _DRIVERS for found in Path("/dev").glob(pattern))


def gpu_names() -> list[str]:
    """Returns the models of NVIDIA's GPUs, as the driver names them; others are not listed."""
    return [name for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
            for name in _values(file, "Model")]


def _values(file: Path, key: str) -> list[str]:
    """Returns the values of a key in a file of /proc with lines `key : value`."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(key)]
