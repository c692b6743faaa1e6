"""Times an ONNX file with onnxruntime, and prints one line of JSON: {"ms": median, ...}.

This one file, onnxruntime and numpy are all that a device needs: copy it there. docs/devices.md
has scripts that call it on other devices for scripts/learn_latency.py.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

WARM_UP_S, INTERRUPTED = 0.2, 1.5


def get_args_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", help="ONNX file; its input is (batch, channels, height, width)")
    p.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    p.add_argument("--batch", type=int, default=1, help="images in a pass (default: %(default)s)")
    p.add_argument("--size", type=int, default=224,
                   help="height and width in px where the file leaves them open "
                        "(default: %(default)s)")
    p.add_argument("--runs", type=int, default=50, help="timed passes (default: %(default)s)")
    p.add_argument("--seconds", type=float, default=2.0,
                   help="of timed passes, at most, but at least 5 passes (default: %(default)s)")
    p.add_argument("--provider", action="append", metavar="NAME",
                   help="execution provider, such as XNNPACKExecutionProvider; may be given again "
                        "(default: CPUExecutionProvider)")
    return p


def open_session(args: argparse.Namespace) -> tuple[Any, dict[str, np.ndarray]]:
    """Returns the session, and its input as random pixels."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(args.model, options,
                                           providers=args.provider or ["CPUExecutionProvider"])
    first = session.get_inputs()[0]
    usual = [args.batch, 3, args.size, args.size]
    shape = [usual[0], *(size if isinstance(size, int) else usual[i]
                         for i, size in enumerate(first.shape[1:], 1))]
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return session, {first.name: images}


def samples(run: Callable[[], object], runs: int, seconds: float) -> list[float]:
    """Returns the durations in ms of passes, after some that warm the device up."""
    start = time.perf_counter()
    run()
    while time.perf_counter() - start < WARM_UP_S:
        run()
    found: list[float] = []
    start = time.perf_counter()
    while len(found) < 5 or (len(found) < runs and time.perf_counter() - start < seconds):
        before = time.perf_counter()
        run()
        found.append(1000 * (time.perf_counter() - before))
    return found


def main(args: argparse.Namespace) -> None:
    """Times the file and prints the line."""
    from onnxruntime import __version__ as version

    session, images = open_session(args)
    times = np.array(samples(lambda: session.run(None, images), args.runs, args.seconds))
    kept = times[times <= INTERRUPTED * np.median(times)]
    print(json.dumps({"ms": round(float(np.median(times)), 5), "mean": round(float(kept.mean()), 5),
                      "fastest": round(float(times.min()), 5), "runs": len(times),
                      "threads": args.threads, "batch": args.batch,
                      "onnxruntime": version,
                      "provider": session.get_providers()[0]}))


if __name__ == "__main__":
    main(get_args_parser().parse_args())
