import argparse
import shlex

import post_search
from utils.invocation import command_line


def make_parser():
    p = argparse.ArgumentParser()
    p.add_argument("data")
    p.add_argument("-n", "--number", type=int, default=3)
    p.add_argument("--fast", action="store_true")
    p.add_argument("--sizes", type=int, nargs="+", default=[1])
    p.add_argument("--name")
    return p


def test_the_command_gives_the_same_values():
    parser = make_parser()
    typed = ["a folder/x", "-n", "5", "--fast", "--sizes", "2", "4", "--name", "it's"]
    values = vars(parser.parse_args(typed))
    command = command_line("it.py", parser, values)
    assert command.startswith("python it.py ")
    words = shlex.split(command)[2:]
    assert vars(parser.parse_args(words)) == values


def test_defaults_and_foreign_values_are_left_out():
    parser = make_parser()
    values = {**vars(parser.parse_args(["x"])), "typed": {"x"}, "sec_obj": "flops"}
    assert command_line("it.py", parser, values) == "python it.py x"


def test_a_real_parser_round_trips():
    parser = post_search.get_args_parser()
    values = vars(parser.parse_args(["--expr", "a b", "-n", "4", "--constraint", "flops<=3"]))
    words = shlex.split(command_line("post_search.py", parser, values))[2:]
    assert vars(parser.parse_args(words)) == values
