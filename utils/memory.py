"""How this process's memory is managed."""

import sys

# Of malloc.h; the largest block that glibc takes from the heap by default is 32 MiB.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, KEPT_BYTES = -1, -3, 2**30


def keep_freed_memory() -> None:
    """Lets this process, and those that it forks, keep the memory that they free, for good.

    By default glibc may hand large arrays, such as the activations of early layers, back to the
    system after every pass and ask for them again in the next; whether it does depends on chance,
    and it can double the time of a pass (`benchmarks/freed_memory.py`). This affects glibc only.
    """
    import ctypes

    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(parameter, KEPT_BYTES)
