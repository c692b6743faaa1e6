"""What a command has measured on a device, network by network, in a file that later runs continue.

The file is that of learned latencies (`evaluator.latency_model`): whatever measures adds to it, and
whatever learns reads it.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evaluator.device_command import DeviceCommand, DeviceError
from evaluator.latency_model import KIND
from evaluator.network_file import LAYERS, NetworkFiles
from search_space import Arch, SearchSpace, name_of
from utils.errors import UserError
from utils.files import read_json, write_json

REFERENCE_EVERY = 10  # networks between two looks at the reference network
DRIFT = 0.1  # of the reference network, from which on it is reported
MAX_FAILED = 3  # networks one after another
# What a file gains; all else that it says must be what a later run says.
GROWING = ("measured", "reference")


def file_content(space: SearchSpace, n_classes: int, width_mult: float) -> dict[str, Any]:
    """Returns what a file says of its networks, without any."""
    return {"kind": KIND, "search_space": name_of(space), "n_classes": n_classes,
            "width_mult": width_mult, "measured": []}


class Measurements:
    """The networks that a command measures, with a reference network that shows drift.

    Args:
        path: the file; what it holds is not measured again. It is written after each network.
        content: see `file_content`; may say more that a later run must agree with.
        space: of the networks.
        command: measures them.
        form: the format of `{model}` where the command names none.
        seed: of the reference network.
        check: called before each writing; raises UserError where the file must not be written.
        resume: how to resume, for messages.

    Raises:
        UserError: the file is damaged, or was measured in another way.
    """

    def __init__(self, path: Path, content: Mapping[str, Any], space: SearchSpace,
                 command: DeviceCommand, *, form: str = LAYERS, seed: int = 0,
                 check: Callable[[], object] = lambda: None,
                 resume: str = "the same command resumes") -> None:
        self.path, self.space, self.command = path, space, command
        self.content = {**content, "seed": seed, "key": command.keys[0], "command": command.text,
                        "format": command.form or form, "reference": []}
        self._check, self._resume, self._in_a_row = check, resume, 0
        self._reference = space.decode(space.draw(1, np.random.default_rng(seed))[0])
        self._known = self._take_up()
        self._files = NetworkFiles(space, self.content["format"], content["n_classes"],
                                   content["width_mult"])

    def __len__(self) -> int:
        return len(self.content["measured"])

    def measure(self, arch: Arch) -> dict[str, Any]:
        """Returns the row of a network: its figures, and `arch`.

        Raises:
            DeviceError: the command failed.
            UserError: it failed for so many networks in a row that the device seems to be lost.
        """
        key = self._key(arch)
        if key not in self._known:
            self._look_at_reference()
            self._known[key] = {"arch": arch, **self._run(arch)}
            self.content["measured"].append(self._known[key])
            self.write()
        return self._known[key]

    def write(self) -> None:
        """Writes the file."""
        self._check()
        write_json(self.path, self.content)

    def _key(self, arch: Arch) -> bytes:
        return self.space.encode(arch).tobytes()

    def _take_up(self) -> dict[bytes, dict[str, Any]]:
        """Returns the rows of the file by their architectures; none where there is no file."""
        if not self.path.exists():
            return {}
        found = read_json(self.path, KIND)
        other = [f"{name} {str(found.get(name))[:80]}, not {str(value)[:80]}"
                 for name, value in self.content.items()
                 if name not in GROWING and found.get(name) != value]
        if other:
            raise UserError(f"{self.path}: measured in another way ({'; '.join(other)}); name "
                            "another file")
        self.content |= {name: found.get(name) for name in GROWING}
        try:
            return {self._key(row["arch"]): row for row in self.content["measured"]}
        except (TypeError, KeyError) as error:
            raise UserError(f"{self.path}: damaged ({error}); name another file") from None

    def _run(self, arch: Arch) -> dict[str, float]:
        try:
            with tempfile.TemporaryDirectory(prefix="measure.") as folder:
                found = self.command.measure(self._files.values(self.command, arch, Path(folder)))
        except DeviceError as error:
            self._in_a_row += 1
            if self._in_a_row == MAX_FAILED:
                raise UserError(f"{MAX_FAILED} networks one after another failed ({error}); "
                                f"{self.path} holds {len(self)}; {self._resume}") from None
            raise
        self._in_a_row = 0
        return found

    def _look_at_reference(self) -> None:
        """Measures the reference network when it is due; reports when it differs from the first."""
        values = self.content["reference"]
        if len(self) // REFERENCE_EVERY < len(values):
            return
        try:
            values.append(self._run(self._reference)[self.command.keys[0]])
        except DeviceError as error:
            print(f"failed: {error}; the reference network, which shows drift", file=sys.stderr)
            return
        change = values[-1] / values[0] - 1
        if abs(change) > DRIFT:
            print(f"the device drifts: the reference network takes {abs(change):.0%} "
                  f"{'more' if change > 0 else 'less'} than at the beginning; is it warm, alone, "
                  "and at a fixed clock?", file=sys.stderr)
