"""NAS-Bench-101: the published hash and counts, the record file, and its table."""

import base64
import gzip
import itertools
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from evaluator.records import read_message, read_nasbench101
from evaluator.table import TableEvaluator
from search_space import get_search_space
from search_space.base import unique_rows
from search_space.nasbench101 import HASHED, OPERATIONS, _pruned, _smallest, graph_hash
from utils.errors import UserError

INCEPTION = [[0, 1, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1],
             [0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1], [0] * 7]


@pytest.fixture(scope="module")
def space():
    return get_search_space("nasbench101")


@pytest.mark.parametrize(("matrix", "labels", "expected"), [
    ([[0, 1], [0, 0]], [], "043721b9c7fe8c5fad811d47d83132ec"),
    ([[0, 1, 0], [0, 0, 1], [0, 0, 0]], [0], "b49ac8c578b4561d79ac7087988f1c61"),
    ([[0, 1, 1], [0, 0, 1], [0, 0, 0]], [2], "6f6257bc3b12d87b8736e81cd4b7ed8b"),
    ([[0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0] * 5], [0, 1, 2],
     "803a5c5374e7431184d573e8d3e35358"),
    (INCEPTION, [1, 0, 0, 0, 2], "28cfc7874f6d200472e1a9dcd8650aa0")])
def test_hashes_of_the_published_program(matrix, labels, expected):
    operations = ["input", *(HASHED[label] for label in labels), "output"]
    assert graph_hash(np.array(matrix), operations) == expected


def test_as_many_graphs_as_published():
    """1 with 2 vertices, 6 with 3, 84 with 4, 2,441 with 5; the hash and the vectors agree."""
    for vertices, expected in ((2, 1), (3, 6), (4, 84), (5, 2441)):
        hashes, vectors = set(), set()
        edges = list(itertools.combinations(range(vertices), 2))
        for bits in itertools.product((False, True), repeat=len(edges)):
            matrix = np.zeros((vertices, vertices), dtype=bool)
            matrix[tuple(zip(*edges, strict=True))] = bits
            pruned, _ = _pruned(matrix, np.zeros(vertices - 2, dtype=int))
            if len(pruned) < vertices or not 0 < pruned.sum() <= 9:
                continue
            for labels in itertools.product(range(3), repeat=vertices - 2):
                names = ["input", *(OPERATIONS[label] for label in labels), "output"]
                hashes.add(graph_hash(matrix, names))
                vectors.add(tuple(_smallest(matrix, np.array(labels, dtype=int))))
        assert len(hashes) == len(vectors) == expected


def test_equal_vectors_mean_equal_hashes(space):
    X = space.draw(300, np.random.default_rng(0))
    archs = [space.decode(x) for x in X]
    hashes = [space.key(arch)[0] for arch in archs]
    assert len(set(hashes)) == len(unique_rows(X))
    for arch in archs:
        assert sum(map(sum, arch["matrix"])) <= 9 and len(arch["ops"]) <= 7


def test_isomorphic_and_prunable_graphs_are_one_architecture(space):
    a, b = OPERATIONS[:2]
    one = {"matrix": [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0] * 4],
           "ops": ["input", a, b, "output"]}
    other = {**one, "ops": ["input", b, a, "output"]}
    dangling = {"matrix": [[0, 1, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0] * 5, [0] * 5],
                "ops": ["input", a, b, b, "output"]}
    np.testing.assert_array_equal(space.encode(one), space.encode(other))
    np.testing.assert_array_equal(space.encode(one), space.encode(dangling))


@pytest.mark.parametrize(("change", "match"), [
    ({"ops": ["input", "output"]}, "'matrix'"), ({"ops": ["input", "conv", "output"]}, "'ops'"),
    ({"matrix": [[0, 1, 1], [0, 0, 1], [1, 0, 0]]}, "'matrix'"), ({"matrix": 3}, "'matrix'"),
    ({"matrix": [[0, 0, 0], [0, 0, 1], [0, 0, 0]]}, "no graph of NAS-Bench-101"),
    ({"matrix": [[0, True, 1], [0, 0, 1], [0, 0, 0]]}, "'matrix'"), ({"ops": None}, "'ops'")])
def test_what_is_no_graph_is_refused(space, change, match):
    arch = {"matrix": [[0, 1, 1], [0, 0, 1], [0, 0, 0]], "ops": ["input", OPERATIONS[0], "output"]}
    assert space.encode(arch).sum() == 3
    with pytest.raises(UserError, match=match):
        space.encode({**arch, **change})


def test_ten_edges_are_too_many(space):
    matrix = np.triu(np.ones((5, 5), dtype=int), 1)
    arch = {"matrix": matrix.tolist(), "ops": ["input", *[OPERATIONS[2]] * 3, "output"]}
    with pytest.raises(UserError, match="at most 9 edges"):
        space.encode(arch)
    matrix[0, 4] = 0
    assert space.encode({**arch, "matrix": matrix.tolist()})[:21].sum() == 9


# ------------------------------------------------------------------------- the record file


def varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found, value = found + bytes([value & 0x7F | 0x80]), value >> 7
    return found + bytes([value])


def field(number: int, content: bytes | float | int) -> bytes:
    if isinstance(content, float):
        return varint(number << 3 | 1) + struct.pack("<d", content)
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def metrics(valid: float, test: float, seconds: float) -> str:
    """Three evaluations of a training, as the published protocol buffer has them."""
    data = b"".join(field(1, field(1, epoch) + field(2, seconds * share) + field(3, 0.99)
                          + field(4, valid * share) + field(5, test * share)
                          + field(6, b"/path/to/model.ckpt"))
                    for epoch, share in ((0.0, 0.1), (54.0, 0.5), (108.0, 1.0)))
    return base64.b64encode(data + field(2, 8555530) + field(3, 9999.0)).decode()


def record(content: list) -> bytes:
    data = json.dumps(content).encode()
    length = struct.pack("<Q", len(data))
    return (length + struct.pack("<I", masked_crc32c(length)) + data
            + struct.pack("<I", masked_crc32c(data)))


def write_records(path: Path, archs: list[dict]) -> Path:
    """Three trainings of each graph for 4 and for 108 epochs."""
    with open(path, "wb") as file:
        for i, arch in enumerate(archs):
            digits = "".join(str(edge) for row in arch["matrix"] for edge in row)
            graph = graph_hash(np.array(arch["matrix"]), arch["ops"])
            for epochs, repeat in itertools.product((4, 108), range(3)):
                valid = (40 + i + repeat + epochs / 4) / 100
                file.write(record([graph, epochs, digits, ",".join(arch["ops"]),
                                   metrics(valid, valid - 0.01, 10.0 * epochs)]))
    return path


@pytest.fixture
def archs(space):
    return space.initialize(30, rng=np.random.default_rng(4))


def test_checksums_of_the_format():
    """The check value of CRC-32C, and the frame of an empty record as TensorFlow writes it."""
    crc = (masked_crc32c(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (crc << 15 | crc >> 17) & 0xFFFFFFFF == 0xE3069283
    assert struct.pack("<QI", 0, masked_crc32c(bytes(8))).hex() == "000000000000000029039807"


def test_the_record_file_is_read_without_tensorflow(tmp_path, archs):
    trainings = list(read_nasbench101(write_records(tmp_path / "full.tfrecord", archs)))
    assert len(trainings) == 6 * len(archs)
    last = trainings[5]
    assert (last.epochs, last.parameters) == (108, 8555530)
    assert last.valid_top1 == pytest.approx(69) and last.test_top1 == pytest.approx(68)
    assert last.seconds == 1080 and last.operations == archs[0]["ops"]
    assert last.matrix.tolist() == archs[0]["matrix"]


@pytest.mark.parametrize("damage", ["cut", "cut header", "other file", "length", "json", "graph"])
def test_damaged_record_files_are_refused(tmp_path, archs, damage):
    path = write_records(tmp_path / "full.tfrecord", archs[:2])
    data = path.read_bytes()
    path.write_bytes({
        "cut": data[:-7], "cut header": data[:7], "other file": gzip.compress(data),
        "length": b"\xff" * 8 + data[8:], "json": data[:12] + b"?" + data[13:],
        "graph": record(["hash", 108, "0110", "input,conv,output", metrics(0.5, 0.5, 1.0)]),
    }[damage])
    with pytest.raises(UserError, match=r"full\.tfrecord: "):
        list(read_nasbench101(path))
    with pytest.raises(UserError, match="No such file"):
        list(read_nasbench101(tmp_path / "missing"))


def test_messages_with_unknown_parts_and_broken_ones():
    assert read_message(field(7, 300) + varint(9 << 3 | 5) + b"abcd") == {7: [300], 9: [b"abcd"]}
    for broken in (b"\x08", varint(1 << 3 | 2) + b"\x7f", varint(1 << 3 | 3), b"\xff" * 11):
        with pytest.raises((ValueError, IndexError)):
            read_message(broken)


def test_a_converted_file_is_a_table(run_command, fails_clearly, tmp_path, space, archs):
    source = write_records(tmp_path / "full.tfrecord", archs)
    table = tmp_path / "nasbench101.csv.gz"
    convert = ("scripts/convert_nasbench.py", "nasbench101")
    done = run_command(*convert, source, "--out", table)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{table}: 30 architectures\n"
    options = {"table": str(table)}
    evaluator = TableEvaluator("nasbench101", options)
    stats = evaluator.evaluate(archs[0])
    assert stats["top1"] == 68 and stats["e4_valid_top1"] == 42 and stats["e108_test_top1"] == 67
    assert stats["params"] == 8555530 and stats["e108_seconds"] == 1080
    own = get_search_space("nasbench101", **options)
    assert len(own.enumerate()) == 30 and space.enumerate() is None
    X = own.canonical(space.draw(50, np.random.default_rng(5)))
    assert own.contains(X).all() and own.contains(own.draw(20, np.random.default_rng(6))).all()
    assert evaluator.evaluate_many([own.decode(x) for x in X]).min() >= 68
    fails_clearly(*convert, tmp_path / "missing", "--out", table, match="no such file")
    (tmp_path / "empty").write_bytes(b"")
    fails_clearly(*convert, tmp_path / "empty", "--out", table, match="no architecture")
