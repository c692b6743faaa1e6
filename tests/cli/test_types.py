"""The types of flags: ranges, and what no flag of any script may take."""

import argparse

import pytest

import msunas
import post_search
import train_cifar
import train_imagenet
import train_supernet
import validation
from cli.scripts import Parser
from cli.types import Extend, amount, checked_values, count, integers, number
from evaluator import __main__ as evaluation
from evaluator.costs import __main__ as costs
from utils.errors import UserError

SCRIPTS = (msunas, post_search, train_cifar, train_imagenet, train_supernet, validation, evaluation,
           costs)


@pytest.mark.parametrize(("convert", "good", "bad"), [
    (count(0), ["0", "7", "1000000"], ["-1", "1.5", "", "x", "nan", "1000001", "9" * 5000]),
    (count(8, 64), ["8", "64"], ["7", "65"]),
    (number(0), ["0", "1e-9", "5"], ["-1e-9", "nan", "inf", "-inf", "x", ""]),
    (number(0, 1), ["0", "0.5", "1"], ["1.01", "-0.01", "nan"]),
    (amount, ["1e-9", "3"], ["0", "-1", "nan", "inf"])])
def test_a_number_out_of_range_is_refused(convert, good, bad):
    assert [convert(text) for text in good] == [float(text) for text in good]
    for text in bad:
        with pytest.raises((ValueError, argparse.ArgumentTypeError)):
            convert(text)


def list_parser():
    parser = Parser(prog="tool")
    parser.add_argument("--sizes", **integers(8, 256))
    return parser


@pytest.mark.parametrize("typed", [["32", "36", "40"], ["32,36,40"], ["32:40:4"], ["32:36:4", "40"],
                                   ["32", "36,40"]])
def test_a_list_can_be_typed_in_three_ways(typed):
    assert list_parser().parse_args(["--sizes", *typed]).sizes == [32, 36, 40]


@pytest.mark.parametrize("typed", [["7"], ["32,257"], ["40:32:4"], ["32:40"], ["32:40:0"],
                                   ["32,,40"], [","], [":::"], ["1:2:3:4"], ["x"], []])
def test_a_list_that_cannot_be_is_refused(typed, capsys):
    with pytest.raises(SystemExit):
        list_parser().parse_args(["--sizes", *typed])
    assert "--sizes" in capsys.readouterr().err


def test_a_flag_can_be_given_several_times():
    parser = Parser(prog="tool")
    parser.add_argument("--lut", nargs="+", action=Extend)
    parser.add_argument("--other")
    args = parser.parse_args(["--lut", "a=1", "b=2", "--lut", "c=3"])
    assert args.lut == ["a=1", "b=2", "c=3"] and args.typed == {"lut"}
    assert parser.parse_args([]).lut is None


def test_a_list_from_a_file_is_checked_like_one_that_is_typed():
    for value in ([32, 36, 40], "32,36,40", ["32:40:4"]):
        assert checked_values(list_parser(), {"sizes": value}, "f") == {"sizes": [32, 36, 40]}
    for value in ([7], [32.5], [True], "x", [], 40.0):
        with pytest.raises(UserError, match="f: sizes cannot be"):
            checked_values(list_parser(), {"sizes": value}, "f")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_every_number_of_every_script_has_a_range(script, capsys):
    parser = script.get_args_parser()
    numbers = [action for action in parser._actions if action.type]
    assert numbers
    for action in numbers:
        for text in ("nan", "-1", "1e400"):
            values = [text] * (action.nargs if isinstance(action.nargs, int) else 1)
            with pytest.raises(SystemExit) as end:
                parser.parse_args([action.option_strings[-1] + f"={values[0]}"]
                                  if len(values) == 1 else [action.option_strings[-1], *values])
            lines = capsys.readouterr().err.splitlines()
            assert end.value.code == 2 and len(lines) == 1
            assert "/".join(action.option_strings) in lines[0]
