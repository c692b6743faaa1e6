"""docs/attacks.md and misleading.md name a test in each row of their tables; it exists."""

import ast
import re

import pytest

from tests.conftest import ROOT

ATTACKS, _, GPUS = (ROOT / "docs/attacks.md").read_text().partition("## Bugs on GPUs")
ROWS, BUGS, MISLED = (
    re.findall(r"^\| (\d+)\*? \| (.+?) \| (.+) \|$", text, re.MULTILINE)
    for text in (ATTACKS, GPUS, (ROOT / "docs/misleading.md").read_text()))


def test_all_attacks_and_bugs_are_there():
    assert [int(number) for number, *_ in ROWS] == list(range(1, 61))
    assert [int(number) for number, *_ in BUGS] == list(range(1, 16))
    assert [int(number) for number, *_ in MISLED] == list(range(1, 21))


@pytest.mark.parametrize("row", [*ROWS, *BUGS, *MISLED], ids=lambda row: row[0])
def test_the_tests_of_an_attack_exist(row):
    names = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[2])
    assert names
    for file, name in names:
        functions = {node.name for node in ast.walk(ast.parse((ROOT / file).read_text()))
                     if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{file} has no {name}"
