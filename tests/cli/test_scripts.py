"""What a script tells its caller: exit codes, and an output that cannot be written."""

import argparse
import importlib
import subprocess
import sys

import pytest

from cli.config import ConfigParser
from cli.scripts import Parser, add_flags, run_script
from data_providers.flags import DATA_FLAGS
from tests.conftest import ROOT
from utils.errors import UserError

OUT_OF_MEMORY = ("tool: error: out of memory: choose smaller batches, images or networks, or a "
                 "machine with more ({})\n")
PRINTS = ("import argparse, sys; from cli.scripts import run_script; "
          "p = argparse.ArgumentParser(prog='prints'); p.add_argument('n', type=int); "
          "sys.exit(run_script(lambda args: [print('x' * 50) for _ in range(args.n)], p))")


def fail(error):
    raise error


@pytest.mark.parametrize(("error", "code", "message"), [
    (UserError("a\nb: wrong"), 2, "tool: error: a\\nb: wrong\n"),
    (FileExistsError(17, "File exists", "some/file"), 2, "tool: error: some/file: File exists\n"),
    (MemoryError(), 2, OUT_OF_MEMORY.format("no reason given")),
    (RuntimeError("CUDA out of memory. Tried\nto"), 2,
     OUT_OF_MEMORY.format("CUDA out of memory. Tried")),
    (KeyboardInterrupt("go on so"), 130, "\ntool: interrupted; go on so\n")])
def test_an_expected_error_is_one_line_and_an_exit_code(capsys, error, code, message):
    parser = argparse.ArgumentParser(prog="tool")
    assert run_script(lambda args: fail(error), parser, []) == code
    assert capsys.readouterr().err == message


def test_a_fault_of_the_program_keeps_its_traceback():
    for fault in (ZeroDivisionError, RuntimeError):
        with pytest.raises(fault):
            run_script(lambda args, fault=fault: fail(fault()), argparse.ArgumentParser(), [])


@pytest.mark.parametrize("lines", [1, 10_000])
def test_a_reader_that_leaves_ends_the_script_quietly(lines):
    process = subprocess.Popen([sys.executable, "-c", PRINTS, str(lines)], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    with process:
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize("lines", [1, 10_000])
def test_an_output_on_a_full_disk_is_one_line(lines):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", PRINTS, str(lines)], cwd=ROOT, text=True,
                              stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.startswith("prints: error: ") and "disk is full" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_error_that_cannot_be_printed_keeps_its_exit_code():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", PRINTS, "1"], cwd=ROOT, stdout=full,
                              stderr=full)
    assert done.returncode == 2


@pytest.mark.parametrize(("typed", "message"), [
    (["--vld-sise", "3"], "unknown flag --vld-sise; did you mean --vld_size?"),
    (["--vld_size=3", "--datset=x"], "unknown flag --datset; did you mean --dataset?"),
    (["--data", "x"], "unknown flag --data; did you mean --dataset?"),  # no abbreviation
    (["--colour"], "unknown flag --colour; see --help")])
def test_a_misspelt_flag_is_refused_with_the_nearest_one(capsys, typed, message):
    parser = Parser(prog="tool")
    parser.add_argument("--vld_size", type=int)
    parser.add_argument("--dataset", required=True)
    with pytest.raises(SystemExit) as end:
        parser.parse_args(typed)
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(lines) == 1 and message in lines[0]


@pytest.mark.parametrize("typed", [["--vld-size", "3"], ["--vld_size=3"], ["--vld-size=3"]])
def test_a_flag_can_be_typed_either_way(typed):
    parser = Parser(prog="tool")
    add_flags(parser.add_argument_group("data"), DATA_FLAGS, "--vld_size")
    args = parser.parse_args(typed)
    assert args.vld_size == 3 and args.typed == {"vld_size"}
    assert parser.parse_args([]).vld_size is None
    assert "--vld_size" in parser.format_help() and "--vld-size" not in parser.format_help()


def test_values_keep_their_spelling():
    parser = Parser(prog="tool")
    parser.add_argument("--a_b")
    parser.add_argument("name", nargs="*")
    args = parser.parse_args(["--a-b=--x-y_z", "x-y_z", "--", "--a-b"])
    assert args.a_b == "--x-y_z" and args.name == ["x-y_z", "--a-b"]


def test_the_help_names_each_default_once():
    parser = Parser(prog="tool")
    parser.add_argument("--size", type=int, default=3, help="its size")
    parser.add_argument("--own", help="(default: the file's)")
    parser.add_argument("--other", help="None: the other")
    parser.add_argument("--quiet", action="store_true", help="print less")
    parser.add_argument("--zero", type=int, default=0, help="a number")
    text = " ".join(parser.format_help().split())
    assert "its size (default: 3)" in text and "a number (default: 0)" in text
    assert text.count("(default: the file's)") == 1 and "None: the other (default: None)" in text
    assert text.count("(default") == 4


def test_what_only_looks_like_a_flag_is_a_value():
    parser = Parser(prog="tool")
    parser.add_argument("name", nargs="*")
    assert parser.parse_args(["--a b", "--", "--dataset"]).name == ["--a b", "--dataset"]


def test_a_file_of_flags_downloads_nothing(tmp_path, capsys):
    """It may be the args.yaml of somebody else's training."""
    (tmp_path / "args.yaml").write_text("download: true\nepochs: 3\n")
    parser = ConfigParser()
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--epochs", type=int)
    args = parser.parse_args(["-c", str(tmp_path / "args.yaml")])
    assert (args.download, args.epochs) == (False, 3)
    assert "type --download" in capsys.readouterr().err
    assert parser.parse_args(["-c", str(tmp_path / "args.yaml"), "--download"]).download


@pytest.mark.parametrize(("script", "typed", "meant"), [
    ("msunas", "--objective", "--sec_obj"), ("msunas", "--budget", "--iterations"),
    ("msunas", "--width", "--supernet_path"), ("msunas", "--epochs", "--n_epochs"),
    ("msunas", "--data-set", "--dataset"), ("train_imagenet", "--n_epochs", "--epochs"),
    ("train_cifar", "--checkpoint=x", "--initial-checkpoint"), ("msunas", "--zzzzzzzz", None)])
def test_what_other_programs_call_a_flag_leads_to_ours(capsys, script, typed, meant):
    parser = importlib.import_module(script).get_args_parser()
    with pytest.raises(SystemExit):
        parser.parse_args([typed])
    err = capsys.readouterr().err
    assert (f"; did you mean {meant}?" if meant else f"unknown flag {typed};") in err


def test_the_version_is_that_of_the_checkout_else_of_the_package(monkeypatch, tmp_path):
    from cli import version

    project = tmp_path / "pyproject.toml"
    monkeypatch.setattr(version, "_PROJECT", project)
    monkeypatch.setattr(version, "version_of", lambda name: f"{name} as installed")
    assert version.program_version() == "msunas as installed"
    project.write_text('[project]\nversion = "7.8.9"\n')
    assert version.program_version() == "7.8.9"
    assert "torch torch as installed" in version.version_text()
