"""docs/faults.md names a test for each attack, and the test exists."""

import ast
import re

import pytest

from tests.conftest import ROOT

ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+) \|$", (ROOT / "docs" / "faults.md").read_text(),
                  re.MULTILINE)


def test_all_attacks_are_there():
    assert [int(number) for number, *_ in ROWS] == list(range(1, 39))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_tests_of_an_attack_exist(row):
    names = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[2])
    assert names
    for file, name in names:
        functions = {node.name for node in ast.parse((ROOT / file).read_text()).body
                     if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{file} has no {name}"
