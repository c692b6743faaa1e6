"""Atomic writes and strict reads, with real faults."""

import json
import os
import resource
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.scripts import TypedFlagsParser, run_script
from utils.errors import UserError, one_line
from utils.files import atomic_path, read_json, read_yaml, write_json

ODD_NAMES = ["with space", "quo'te\"s", "new\nline", "ümläut-日本", "-dash", "$(touch x)"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_paths_work(tmp_path, name):
    path = tmp_path / name / "file.json"
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"old": True})
    with pytest.raises(ValueError):
        write_json(path, {"new": float("nan")})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"old": True}
    assert len(list(tmp_path.iterdir())) == 1


def test_written_files_obey_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_json(tmp_path / "file.json", {})
    finally:
        os.umask(old)
    assert (tmp_path / "file.json").stat().st_mode & 0o777 == 0o640


def test_the_file_size_limit_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"old": True})
    code = textwrap.dedent(f"""
        import resource, signal, sys
        from cli.scripts import run_script
        from utils.files import write_json
        import argparse
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        sys.exit(run_script(lambda args: write_json({str(path)!r}, "x" * 5000),
                            argparse.ArgumentParser(prog="test"), []))
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "file-size limit" in done.stderr
    assert read_json(path) == {"old": True}
    assert len(list(tmp_path.iterdir())) == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize(("content", "message"), [
    (b"", "empty"), (b"  \n", "empty"), (b'{"a": 1', "truncated"), (b"<html>", "HTML"),
    (b"\xff\xfe\x00", "not a text file"), (b'{"a": NaN}', "NaN"), (b'{"a": 1, "a": 2}', "twice"),
    (b"[1]", "dict"), (b"[" * 100000, "not a valid"), (b"1" * 5000, "not a valid"),
])
def test_bad_json_is_named(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_json(path)
    assert str(path) in str(error.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="no such"):
        read_json(tmp_path / "absent")
    with pytest.raises(UserError, match="folder"):
        read_json(tmp_path)
    with pytest.raises(UserError, match="null"):
        read_json("a\0b")
    with pytest.raises(UserError, match=r"cannot be read|no such"):
        read_json(tmp_path / ("x" * 300))


@given(content=st.binary(max_size=100))
def test_any_bytes_are_json_or_an_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    for read in (read_json, read_yaml):
        try:
            assert isinstance(read(path), dict)
        except UserError as error:
            assert str(error)


@given(value=st.dictionaries(st.text(), st.integers() | st.lists(st.text()), max_size=5))
def test_json_survives_a_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "round.json"
    write_json(path, value)
    assert read_json(path) == value == json.loads(path.read_text())


def test_yaml_runs_no_code(tmp_path):
    path, mark = tmp_path / "bad.yaml", tmp_path / "mark"
    path.write_text(f"a: !!python/object/apply:os.mkdir ['{mark}']\n")
    with pytest.raises(UserError, match="not YAML"):
        read_yaml(path)
    assert not mark.exists()


def test_messages_stay_on_one_line(capsys):
    def main(args):
        raise UserError("a\nb\x1b[31m ümläut")

    assert run_script(main, TypedFlagsParser(prog="p"), []) == 2
    assert capsys.readouterr().err == "p: error: a\\nb\\x1b[31m ümläut\n"
    assert one_line("plain ü") == "plain ü"


def test_faults_of_the_program_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_script(lambda args: 1 / 0, TypedFlagsParser(prog="p"), [])


def test_typed_flags_are_told_from_defaults():
    parser = TypedFlagsParser()
    parser.add_argument("--a", type=int, default=1)
    parser.add_argument("--b", type=int, default=2)
    args = parser.parse_args(["--a", "1"])
    assert (args.a, args.b, args.typed) == (1, 2, {"a"})
