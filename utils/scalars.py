"""Figures over time as TensorBoard reads them; needs the package tensorboard."""

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.files import make_folder, own_folder


class Scalars:
    """A new file of events.

    torch's own writer works in a thread, which ends with a traceback where the disk is full.

    Args:
        folder: where it is made.
        step: the first one to come; later steps in older files are ignored.
    """

    def __init__(self, folder: Path, step: int) -> None:
        make_folder(own_folder(folder))
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        self._write(file_version="brain.Event:2")
        if step:
            self._write(step=step, session_log={"status": "START"})

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Adds the figures of a step, by their names."""
        for name, value in values.items():
            self._write(step=step, summary={"value": [{"tag": name, "simple_value": value}]})

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **fields).SerializeToString())
        with open(self.path, "ab") as file:
            file.write(record.getvalue())
