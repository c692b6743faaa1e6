"""Hostile inputs for readers: random bytes, random JSON, and mutations of valid files."""

import copy
import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import yaml

KEYS = ("ks", "e", "d", "r", "archive", "candidates", "hv", "surrogate", "sec_obj", "name", "top1",
        "reference_point", "mean", "blocks", "conv", "shortcut", "status", "dataset", "lr", "epoch",
        "state_dict", "optimizer")
ODD = (None, True, False, 0, -1, 1, 3, 2**31, 2**63, -2**70, 10**400, 0.5, -0.0, 1e-320, 1e308,
       float("nan"), float("inf"), "", "nan", "3", "a\x00b", "\ud800", "é\u202e", "x" * 300, [], {},
       [[]], {"": None})
BYTES = (b"\x00", b"\xff", b"<html>", b"\xef\xbb\xbf", b"NaN", b"1e999", b"-", b"[", b"{", b'"',
         b"&a [*a]", b"!!python/object/apply:os.system", b"9" * 50, b"\r\n", b"\xed\xa0\x80",
         b"2001-99-99", b"0x", b"<<:", b"? ", b"- ")


def random_value(rng: random.Random, depth: int = 3) -> Any:
    """Returns what JSON can hold, and NaN and infinity."""
    kind = rng.randrange(6 if depth else 4)
    if kind < 3:
        return copy.deepcopy(rng.choice(ODD))
    if kind == 3:
        return rng.choice((rng.randint(-10, 300), rng.uniform(-2, 120), rng.choice(KEYS)))
    values = [random_value(rng, depth - 1) for _ in range(rng.randrange(5))]
    if kind == 4:
        return values
    return {rng.choice(KEYS): value for value in values}


def random_bytes(rng: random.Random) -> bytes:
    """Returns up to 300 bytes, some of them with a meaning in a format."""
    parts = [rng.choice(BYTES) if rng.random() < 0.3 else rng.randbytes(rng.randrange(30))
             for _ in range(rng.randrange(12))]
    return b"".join(parts)


def damage(content: bytes, rng: random.Random) -> bytes:
    """Returns the content cut off, or with bits flipped and pieces replaced, moved, put in."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((0, 1, 1, 2, 8, 64)))
        kind = rng.randrange(5)
        if kind == 0:
            del data[start:]
        elif kind == 1:
            for i in range(start, end):
                data[i] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[start:end] = rng.choice(BYTES)
        elif kind == 3:
            data[start:end] = b""
        else:
            other = rng.randrange(len(data) + 1)
            data[start:end] = data[other:other + end - start + 1]
    return bytes(data)


def change(value: Any, rng: random.Random) -> Any:
    """Changes one place of nested lists and dicts, and returns the whole."""
    if not isinstance(value, list | dict) or not value or rng.random() < 0.05:
        return random_value(rng)
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    if rng.random() < 0.75:
        value[key] = change(value[key], rng)
    elif rng.random() < 0.5:
        value.pop(key)
    elif isinstance(value, dict):
        value[rng.choice(KEYS)] = copy.deepcopy(value[key])
    else:
        value.insert(key, copy.deepcopy(value[key]))
    return value


def text_inputs(*seeds: Any, dump: Callable[[Any], str] = json.dumps) -> Callable:
    """Returns a maker of inputs for a reader of JSON or YAML, from the valid values `seeds`."""
    texts = [dump(value) for value in seeds]

    def make(rng: random.Random) -> bytes:
        kind = rng.random()
        if kind < 0.1:
            return random_bytes(rng)
        if kind < 0.25:
            return json.dumps(random_value(rng)).encode()
        text = rng.choice(texts)
        if kind < 0.55:
            return damage(text.encode(), rng)
        value = yaml.load(text, yaml.CSafeLoader) if dump is not json.dumps else json.loads(text)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            value = change(value, rng)
        return json.dumps(value).encode()

    return make


def string_inputs(seeds: Sequence[str], words: Sequence[str]) -> Callable:
    """Returns a maker of short texts: valid ones with pieces changed, and rows of `words`."""

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.4:
            return "".join(rng.choices(words, k=rng.randrange(8))).encode()
        if rng.random() < 0.2:
            return random_bytes(rng)
        return damage(rng.choice(seeds).encode(), rng)

    return make


def yaml_inputs() -> Callable:
    """Returns a maker of YAML that is small to write and large or deep to build."""
    odd = ("1:" * 40 + "1", "0x" + "f" * 9000, "9" * 9000, "2001-99-99", "!!binary Z", ".inf",
           "!!timestamp x", "!!int 0b", "!!python/name:os.system", "1_" * 900, "!!omap [a]")
    openers = ("[", "{a: ", "- ", "? ", "!!set {", "[[{b: [")

    def deep(rng: random.Random) -> str:
        opener = rng.choice(openers)
        return opener * rng.choice((3, 60, 5000, 100_000 // len(opener)))

    def indented(rng: random.Random) -> str:
        step = rng.randrange(1, 3)
        return "".join(" " * (step * i) + rng.choice(("a:\n", "- \n", "? \n"))
                       for i in range(rng.choice((10, 100, 1500))))

    def aliases(rng: random.Random) -> str:
        width, levels = rng.randrange(1, 12), rng.randrange(1, 12)
        lines = ["a0: &a0 " + rng.choice(("[x, y]", "{x: 1}", "text", "&a0 [*a0]"))]
        for i in range(1, levels):
            earlier = ", ".join(f"*a{rng.randrange(i + (rng.random() < 0.02))}"
                                for _ in range(width))
            lines.append(f"a{i}: &a{i} " + rng.choice((f"[{earlier}]", f"{{<<: [{earlier}], y: 1}}",
                                                       f"{{? [{earlier}] : 1}}")))
        return "\n".join(lines)

    def scalars(rng: random.Random) -> str:
        return "\n".join(f"k{i}: {rng.choice(odd)}" for i in range(rng.randrange(1, 20)))

    makers = (deep, indented, aliases, scalars)

    def make(rng: random.Random) -> bytes:
        text = rng.choice(makers)(rng).encode()
        return damage(text, rng) if rng.random() < 0.3 else text

    return make


def picture_inputs() -> Callable:
    """Returns a maker of pictures in every format that Pillow writes, whole, damaged, or huge."""
    import numpy as np
    from PIL import Image

    Image.init()
    noise = np.random.default_rng(0).integers(0, 256, (24, 31, 4), dtype=np.uint8)
    whole = []
    for kind in sorted(Image.SAVE):
        for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "I", "F", "CMYK", "YCbCr", "LAB"):
            try:
                image = Image.fromarray(noise[:, :, :3])
                image = (Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257) if mode == "I;16"
                         else image.convert(mode))
                out = io.BytesIO()
                image.save(out, kind)
                whole.append(out.getvalue())
            except (OSError, ValueError, KeyError, SyntaxError, RuntimeError, TypeError,
                    AttributeError, ImportError):
                continue  # the format has no such mode

    def make(rng: random.Random) -> bytes:
        content, kind = rng.choice(whole), rng.random()
        if kind < 0.15:
            return content
        if kind < 0.25 and content[:4] == b"\x89PNG":  # another size in the header
            width, height = (rng.choice((0, 1, 31, 20_000, 2**31 - 1)) for _ in range(2))
            header = content[12:16] + struct.pack(">II", width, height) + content[24:29]
            return (content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
        if kind < 0.3:
            return random_bytes(rng)
        return damage(content, rng)

    return make


class Attack:
    """Unpickling it would create the file `created`."""

    def __reduce__(self):
        return os.mkdir, ("created",)


def checkpoint_inputs(seeds: Sequence[Any]) -> Callable:
    """Returns a maker of checkpoints: of both file formats, damaged, edited, or with code."""
    import torch

    def save(value: Any, zipped: bool, protocol: int = 2) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
        return buffer.getvalue()

    valid = [[save(value, zipped) for value in seeds] for zipped in (True, False)]

    def code(rng: random.Random) -> bytes:
        value = rng.choice((Attack(), [Attack()], {"state_dict": Attack()},
                            {"state_dict": seeds[0], "epoch": 1, "optimizer": Attack()}))
        protocol = rng.randrange(2, pickle.HIGHEST_PROTOCOL + 1)
        if rng.random() < 0.3:
            return pickle.dumps(value, rng.randrange(protocol + 1))
        return save(value, rng.random() < 0.5, protocol)

    def content(rng: random.Random) -> bytes:
        tensors = {key: torch.full((rng.randrange(3),) * rng.randrange(4), rng.uniform(-1, 1))
                   for key in rng.sample(KEYS, 2)}
        value = change({"state_dict": tensors, "epoch": 1, "optimizer": {}}, rng)
        return save(value, rng.random() < 0.5)

    makers = [random_bytes, code, lambda rng: damage(code(rng), rng), content,
              lambda rng: edit_archive(rng.choice(valid[0]), rng)]
    makers += [lambda rng, group=group: damage(rng.choice(group), rng) for group in valid] * 2
    return lambda rng: rng.choice(makers)(rng)


def edit_archive(content: bytes, rng: random.Random) -> bytes:
    """Returns a zip file with one of its members damaged, renamed, left out, doubled, emptied."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        entries = old.infolist()
        target = rng.randrange(len(entries))
        for i, entry in enumerate(entries):
            data, name, kind = old.read(entry), entry.filename, rng.randrange(6)
            if i != target or kind == 0:
                new.writestr(name, damage(data, rng) if i == target else data)
            elif kind == 1:
                new.writestr(rng.choice(("../created", "/created", name + "x")), data)
            elif kind == 2:
                new.writestr(name, data)
                new.writestr(name + "2", data * 50)
            elif kind == 3:
                new.writestr(name, b"")
            elif kind == 4:
                new.writestr(name, data, compress_type=zipfile.ZIP_DEFLATED)
    return out.getvalue()
