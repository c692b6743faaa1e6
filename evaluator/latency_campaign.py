"""Networks to learn a latency from: those of a table, or a campaign that measures them."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evaluator.device_command import DeviceCommand, DeviceError
from evaluator.latency_model import (
    KIND,
    MIN_NETWORKS,
    LatencyModel,
    LearnedLatency,
    agreement,
    cross_validated,
    unsure_about,
)
from evaluator.network_file import NetworkFiles
from search_space import DEFAULT, SEARCH_SPACES, Arch, SearchSpace, get_search_space, name_of
from search_space.base import rows_in
from search_space.table import parse_number, read_table
from utils.errors import UserError
from utils.files import parse_json, read_json, write_json
from utils.flags import refuse_idle
from utils.locks import Lock

# Networks that are measured between two fits, and between two looks at the reference network.
ROUND, REFERENCE_EVERY = 10, 10
DRIFT = 0.1  # of the reference network, from which on it is reported
MAX_FAILED = 3  # networks one after another


def learn_from_table(args: argparse.Namespace) -> None:
    """Learns from some rows of a table, and prints how well it predicts the others."""
    archs, latency = read_measured(args.measured, args.column)
    space = space_of_archs(archs, args.search_space)
    if args.n > len(archs) - 2:
        raise UserError(f"{args.measured}: {len(archs)} measured networks; --n {args.n} leaves "
                        "none to test on")
    order = np.random.default_rng(args.seed).permutation(len(archs))
    known, others = order[:args.n], order[args.n:]
    try:
        X = np.array([space.encode(arch) for arch in archs])
    except UserError as error:
        raise UserError(f"{args.measured}: {error}") from None
    content = file_content(args, space) | {
        "key": args.column,
        "measured": [{"arch": archs[i], args.column: float(latency[i])} for i in known]}
    learned = LearnedLatency(args.measured, content, space, args.n_classes, content["width_mult"])
    tested = agreement(learned.values(X[others]), latency[others])
    line = {**tested, "n_train": len(known), "n_test": len(others)}
    if args.out:
        write_json(args.out, content | {"error": tested})
    print(json.dumps({name: round(value, 6) for name, value in line.items()}))


def read_measured(path: str, column: str) -> tuple[list[Arch], np.ndarray]:
    """Returns the architectures of a table and their (n,) latencies; rows without one are left out.

    Raises:
        UserError: the file is damaged or lacks a column, or fewer than two rows have a latency.
    """
    table = read_table(path)
    numbers = [parse_number(text.strip()) for text in table.column(column)]
    rows = [(text, value) for text, value in zip(table.column("arch"), numbers, strict=True)
            if value is not None and value > 0]
    if len(rows) < len(numbers):
        print(f"{path}: {len(numbers) - len(rows)} of {len(numbers)} rows have no number above 0 "
              f"under {column[:60]}; they are left out", file=sys.stderr)
    try:
        archs = [parse_json(text) if text.startswith("{") else {"arch": text} for text, _ in rows]
    except ValueError as error:
        raise UserError(f"{path}: an architecture is no JSON: {error}") from None
    return archs, np.array([value for _, value in rows], dtype=float)


def space_of_archs(archs: list[Arch], name: str | None) -> SearchSpace:
    """Returns the space of architectures, with their resolutions: the first that takes them.

    Raises:
        UserError: none does.
    """
    for each in [name] if name else [DEFAULT, *SEARCH_SPACES]:
        try:
            sizes = sorted({arch["r"] for arch in archs if "r" in arch}) or None
            space = get_search_space(each, resolutions=sizes)
            space.encode(archs[0])
            return space
        except (UserError, TypeError, IndexError) as error:
            problem = error
    raise UserError(f"no search space takes the first architecture of the table: {problem}"
                    if not name else f"--search_space {name}: {problem}")


def file_content(args: argparse.Namespace, space: SearchSpace) -> dict[str, Any]:
    """Returns what a file says of its networks, without any."""
    return {"kind": KIND, "search_space": name_of(space), "n_classes": args.n_classes,
            "width_mult": args.width or space.default_width, "seed": args.seed,
            **({"prior": read_json(args.prior, KIND)} if args.prior else {})}


class Campaign:
    """Measures networks by a command, round by round, and learns from them.

    The first half are the smallest, the largest and random networks, the others those that the
    model is most unsure about. The file is written after each network.

    Args:
        args: the command line.
        lock: of the file.
    """

    def __init__(self, args: argparse.Namespace, lock: Lock) -> None:
        self.args, self.lock = args, lock
        self.space = get_search_space(args.search_space or DEFAULT, resolutions=args.resolutions)
        self.command = DeviceCommand.parse(args.command, key=args.key, timeout=args.timeout,
                                           retries=args.retries)
        if not self.command.needs("{model}"):
            refuse_idle(args.typed, {"without {model} in --command": ("--format",)})
        self.content = file_content(args, self.space) | {
            "key": args.key, "command": args.command, "format": args.format, "measured": [],
            "reference": []}
        self.failed: list[np.ndarray] = []
        self.in_a_row = 0
        self._take_up()
        self.files = NetworkFiles(self.space, args.format, args.n_classes,
                                  self.content["width_mult"])

    def run(self) -> None:
        """Measures what is missing, and writes what was learned."""
        folder = Path(tempfile.mkdtemp(prefix="learn_latency."))
        try:
            for X in self._rounds():
                for x in X:
                    self._measure(x, folder)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{self.args.out} holds {len(self.content['measured'])} "
                                    "networks; the same command resumes") from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._finish()

    def _take_up(self) -> None:
        """Continues with the file, where there is one.

        Raises:
            UserError: it was measured in another way.
        """
        if not self.args.out.exists():
            return
        found = read_json(self.args.out, KIND)
        other = [f"{name} {str(found.get(name))[:80]}, not {str(value)[:80]}"
                 for name, value in self.content.items()
                 if name not in ("measured", "reference") and found.get(name) != value]
        if other:
            raise UserError(f"{self.args.out}: measured in another way ({'; '.join(other)}); name "
                            "another file with --out")
        self.content |= {name: found.get(name) for name in ("measured", "reference")}
        try:
            n_found = len(self._tried())
        except (TypeError, KeyError) as error:
            raise UserError(f"{self.args.out}: damaged ({error}); name another file with "
                            "--out") from None
        print(f"{self.args.out}: {n_found} networks are measured already")

    def _rounds(self) -> Iterator[np.ndarray]:
        """Gives vectors to measure, in random order, until there are enough measurements."""
        rng = np.random.default_rng(self.args.seed)
        first = self.space.initialize(max(MIN_NETWORKS, self.args.n // 2), rng=rng)
        yield rng.permutation(self._untried(np.array([self.space.encode(a) for a in first])))
        while missing := max(0, self.args.n - len(self.content["measured"])):
            n = min(missing, ROUND)
            if len(self.content["measured"]) < MIN_NETWORKS:
                chosen = self._untried(self.space.draw(n, rng))
            else:
                chosen = unsure_about(self._model(), self._tried(), n, rng)
            if not len(chosen):
                raise UserError(f"{self.args.out}: no further networks to measure in the space "
                                f"{self.space.name}; choose a smaller --n")
            yield rng.permutation(chosen)

    def _tried(self) -> np.ndarray:
        """Returns the (n, n_var) vectors of the networks that were measured or failed."""
        rows = [self.space.encode(row["arch"]) for row in self.content["measured"]]
        return np.array([*rows, *self.failed], dtype=int).reshape(-1, self.space.n_var)

    def _untried(self, X: np.ndarray) -> np.ndarray:
        missing = max(0, self.args.n - len(self.content["measured"]))
        return X[~rows_in(X, self._tried())][:missing]

    def _model(self) -> LatencyModel:
        return LearnedLatency(self.args.out, self.content, self.space, self.args.n_classes,
                              self.content["width_mult"]).model

    def _measure(self, x: np.ndarray, folder: Path) -> None:
        """Measures one network and writes the file, with the reference network now and then."""
        if len(self.content["measured"]) // REFERENCE_EVERY >= len(self.content["reference"]):
            self._look_at_reference(folder)
        arch = self.space.decode(x)
        try:
            figures = self._run(arch, folder)
        except DeviceError as error:
            self.failed.append(x)
            self.in_a_row += 1
            if self.in_a_row == MAX_FAILED:
                raise UserError(f"{MAX_FAILED} networks one after another failed ({error}); "
                                f"{self.args.out} holds {len(self.content['measured'])}; the same "
                                "command resumes") from None
            print(f"failed: {error}; left out: {self.space.describe(arch)[:80]}", file=sys.stderr)
            return
        self.in_a_row = 0
        self.content["measured"].append({"arch": arch, **figures})
        self._write()
        print(f"{len(self.content['measured'])} of {self.args.n}: {figures[self.args.key]:.4g} "
              f"{self.args.key}, {self.space.describe(arch)[:80]}", flush=True)

    def _look_at_reference(self, folder: Path) -> None:
        """Measures the reference network, and says when it differs from the first time."""
        rng = np.random.default_rng(self.args.seed)
        arch = self.space.decode(self.space.draw(1, rng)[0])
        try:
            value = self._run(arch, folder)[self.args.key]
        except DeviceError as error:
            print(f"failed: {error}; the reference network, which shows drift", file=sys.stderr)
            return
        self.content["reference"].append(value)
        self._write()
        change = value / self.content["reference"][0] - 1
        if abs(change) > DRIFT:
            print(f"the device drifts: the reference network takes {abs(change):.0%} "
                  f"{'more' if change > 0 else 'less'} than at the beginning; is it warm, alone, "
                  "and at a fixed clock?", file=sys.stderr)

    def _run(self, arch: Arch, folder: Path) -> dict[str, float]:
        return self.command.measure(self.files.values(self.command, arch, folder))

    def _write(self) -> None:
        self.lock.check()
        write_json(self.args.out, self.content)

    def _finish(self) -> None:
        """Writes and prints how well the model predicts networks that it has not seen."""
        model = self._model()
        error = cross_validated(model, self.args.seed)
        self.content["error"] = error
        self._write()
        print(f"{self.args.out}: learned from {len(self.content['measured'])} networks; on "
              f"networks that it has not seen: Spearman {error['spearman']:.3f}, mean error "
              f"{error['mape']:.1%}, within 5 % {error['within5']:.0%}, within 10 % "
              f"{error['within10']:.0%} of them")
