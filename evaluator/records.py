"""Readers of the files that benchmarks are published as, without the libraries that wrote them."""

import base64
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from search_space.nasbench101 import INPUT, OPERATIONS, OUTPUT
from utils.errors import UserError
from utils.files import open_regular

MAX_RECORD = 2**20
# Of model_metrics.proto: fields of ModelMetrics and of its EvaluationData.
_EVALUATION, _PARAMETERS = 1, 2
_SECONDS, _VALID, _TEST = 2, 4, 5
# Bytes of a number that is no varint, by its wire type.
_FIXED_SIZES = {1: 8, 5: 4}
# The evaluations of a training: before it, half-way, at its end.
_FINAL = 2


@dataclass(frozen=True)
class Training:
    """One training of one graph in the NAS-Bench-101 file.

    Attributes:
        graph_hash: the benchmark's hash of the graph.
        epochs: how long it was trained: 4, 12, 36 or 108.
        matrix: (v, v) of 0 and 1, edges from row to column.
        operations: v names, `input` first and `output` last.
        parameters: number of weights.
        valid_top1, test_top1: accuracies after training, in percent.
        seconds: how long the training took.
    """

    graph_hash: str
    epochs: int
    matrix: np.ndarray
    operations: list[str]
    parameters: int
    valid_top1: float
    test_top1: float
    seconds: float


def read_nasbench101(path: str | os.PathLike) -> Iterator[Training]:
    """Gives the trainings of a published file (`nasbench_full.tfrecord` or `nasbench_only108`).

    Each record is a JSON list: hash, epochs, the matrix as digits, the operations joined by commas,
    and the metrics as a protocol buffer in base64.

    Raises:
        UserError: the file is missing, is no such file, or is damaged.
    """
    try:
        with open_regular(path) as file:
            for number, record in enumerate(read_records(file), 1):
                try:
                    yield _training(record)
                except (ValueError, TypeError, LookupError, AttributeError, RecursionError,
                        OverflowError, struct.error) as error:
                    raise UserError(f"{path}: record {number} is no training of NAS-Bench-101 "
                                    f"({type(error).__name__})") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except EOFError as error:
        raise UserError(f"{path}: {error}") from None


def read_records(file: IO[bytes]) -> Iterator[bytes]:
    """Gives the records of a TFRecord file: length, its checksum, the bytes, their checksum.

    The lengths' checksums are verified, so that another file is noticed at once; those of the
    records are not, which would take hours in Python.

    Raises:
        EOFError: the file is no TFRecord file, or ends within a record.
    """
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    while header := file.read(12):
        if len(header) < 12:
            raise EOFError("truncated; download it again")
        length, checksum = struct.unpack("<QI", header)
        if masked_crc32c(header[:8]) != checksum or length > MAX_RECORD:
            raise EOFError("no TFRecord file, or damaged; download it again")
        record = file.read(length + 4)
        if len(record) < length + 4:
            raise EOFError("truncated; download it again")
        yield record[:-4]


def _training(record: bytes) -> Training:
    graph_hash, epochs, digits, operations, metrics = json.loads(record)
    names = operations.split(",")
    if names[0] != INPUT or names[-1] != OUTPUT or not set(names[1:-1]) <= set(OPERATIONS) \
            or len(digits) != len(names) ** 2 or not set(digits) <= set("01"):
        raise ValueError("no graph")
    fields = read_message(base64.b64decode(metrics, validate=True))
    final = read_message(fields[_EVALUATION][_FINAL])
    matrix = np.array([int(digit) for digit in digits]).reshape(len(names), len(names))
    return Training(str(graph_hash), int(epochs), matrix, names, int(fields[_PARAMETERS][0]),
                    100 * _double(final, _VALID), 100 * _double(final, _TEST),
                    _double(final, _SECONDS))


def _double(fields: dict[int, list[Any]], number: int) -> float:
    """Returns a field of type double; one that is absent is 0, as in protocol buffers."""
    value: float = struct.unpack("<d", fields[number][0])[0] if number in fields else 0.0
    if not np.isfinite(value):
        raise ValueError("not finite")
    return value


def read_message(data: bytes) -> dict[int, list[Any]]:
    """Returns the fields of a protocol buffer by number: ints of a varint, bytes of the others.

    Raises:
        ValueError: the bytes are none.
    """
    from google.protobuf.empty_pb2 import Empty
    from google.protobuf.message import DecodeError
    from google.protobuf.unknown_fields import UnknownFieldSet

    try:
        message = Empty.FromString(data)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    fields: dict[int, list[Any]] = {}
    for field in UnknownFieldSet(message):
        size = _FIXED_SIZES.get(field.wire_type)
        fields.setdefault(field.field_number, []).append(
            field.data.to_bytes(size, "little") if size else field.data)
    return fields
