"""From text of unknown origin to values: JSON and YAML, strict and within bounds."""

import json
import math
from typing import Any

import yaml

# JSON: a value takes up to 100 bytes of memory where it is one in the file.
MAX_VALUES = 5_000_000
# YAML, which is read far slower: values, and how many of them its aliases may repeat.
MAX_YAML_VALUES, MAX_REPEATED = 1_000_000, 100_000
MAX_DEPTH = 50  # of nested collections in YAML
MAX_BITS = 4096  # of an integer


class MalformedError(ValueError):
    """The text is not in the format at all: cut off, or of another one."""


def n_values(text: str) -> int:
    """Returns at least how many values JSON text holds, less one, without building any."""
    return sum(map(text.count, ",[{"))


def parse_json(text: str, allow_nan: bool = False, max_values: int = MAX_VALUES) -> Any:
    """Returns the value of JSON text.

    Args:
        text: one value.
        allow_nan: return the NaN and infinities that Python's own writer may have left.
        max_values: how many values it may hold.

    Raises:
        MalformedError: not JSON.
        ValueError: NaN, a key twice, nested too deeply, or more than `max_values` values.
    """
    if n_values(text) > max_values:
        raise ValueError(f"more than {max_values} values")
    try:
        return json.loads(text, parse_constant=float if allow_nan else _refuse_constant,
                          parse_float=float if allow_nan else _finite,
                          object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        what = "HTML" if text.lstrip()[:1] == "<" else "not JSON, or truncated"
        raise MalformedError(f"{what} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_yaml(text: str) -> Any:
    """Returns the value of YAML text, by the safe (C, where there is one) loader.

    Raises:
        MalformedError: not YAML.
        ValueError: a key twice, nested deeper than `MAX_DEPTH`, more than `MAX_YAML_VALUES` values,
            or aliases that repeat more than `MAX_REPEATED`.
    """
    try:
        _check_structure(text)
        return yaml.load(text, Loader=_UniqueKeysLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise MalformedError(f"not YAML, or truncated{place}") from None
    except (RecursionError, OverflowError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from None


class _UniqueKeysLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            _unique_keys([(self.construct_object(key), None) for key, _ in node.value])
        return mapping

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = int(super().construct_yaml_int(node))
        if number.bit_length() > MAX_BITS:  # Python itself refuses to print it
            raise ValueError(f"an integer of {number.bit_length()} bits")
        return number


_UniqueKeysLoader.add_constructor("tag:yaml.org,2002:int", _UniqueKeysLoader.construct_yaml_int)


def _check_structure(text: str) -> None:
    """Looks at YAML without building anything: the loader's stack is C's, aliases are cheap.

    Raises:
        ValueError: nested too deeply, too many values, or aliases that repeat too much.
    """
    values = repeated = 0
    open_collections: list[tuple[str | None, int]] = []
    sizes: dict[str | None, int] = {}  # anchor -> number of its values, once it is complete
    for event in yaml.parse(text, Loader=_UniqueKeysLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_collections.append((event.anchor, values))
            values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_collections.pop()
            if anchor:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"*{event.anchor} is undefined, or refers to itself")
            values += sizes[event.anchor]
            repeated += sizes[event.anchor]
        if len(open_collections) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if values > MAX_YAML_VALUES:
            raise ValueError(f"more than {MAX_YAML_VALUES} values")
        if repeated > MAX_REPEATED:
            raise ValueError(f"its aliases repeat more than {MAX_REPEATED} values")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # 1e999
        raise ValueError(f"{text[:20]} is more than a number can be")
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} is there twice")
        result[key] = value
    return result
