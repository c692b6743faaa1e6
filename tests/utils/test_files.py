"""Atomic writes and strict reads, with real faults."""

import errno
import json
import os
import resource
import stat
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.scripts import Parser, run_script
from utils import parsing
from utils.errors import UserError, one_line
from utils.files import (
    atomic_path,
    in_use,
    make_folder,
    open_log,
    read_json,
    read_text,
    read_yaml,
    write_json,
    write_text,
)

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


@pytest.mark.parametrize("linked", [False, True])
def test_a_device_or_a_pipe_is_not_replaced(tmp_path, linked):
    pipe = path = tmp_path / "pipe"
    os.mkfifo(pipe)
    if linked:
        path = tmp_path / "link"
        path.symlink_to(pipe)
    with pytest.raises(UserError, match="a device or a pipe, not a file"):
        write_text(path, "text")
    assert stat.S_ISFIFO(path.stat().st_mode) and path.is_symlink() == linked
    assert len([*tmp_path.iterdir()]) == 1 + linked


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

    assert run_script(main, Parser(prog="p"), []) == 2
    assert capsys.readouterr().err == "p: error: a\\nb\\x1b[31m ümläut\n"
    assert one_line("plain ü") == "plain ü"


def test_faults_of_the_program_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_script(lambda args: 1 / 0, Parser(prog="p"), [])


def test_typed_flags_are_told_from_defaults():
    parser = Parser()
    parser.add_argument("--a", type=int, default=1)
    parser.add_argument("--b", type=int, default=2)
    args = parser.parse_args(["--a", "1"])
    assert (args.a, args.b, args.typed) == (1, 2, {"a"})


# ------------------------------------------------------------------- hostile files and file systems

DEEP = {"brackets": "[" * 100_000, "braces": "{a: " * 100_000, "dashes": "- " * 100_000,
        "questions": "? " * 100_000,
        "indented": "".join(" " * i + "a:\n" for i in range(3000))}
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
MERGES = "m0: &m0 {x: 1}\n" + "".join(
    f"m{i}: &m{i} {{<<: [{','.join([f'*m{i - 1}'] * 10)}], y{i}: 1}}\n" for i in range(1, 9))


@pytest.mark.parametrize("name", DEEP)
def test_yaml_that_is_nested_without_end_is_refused(run_command, tmp_path, name):
    """In a process of its own: on the C loader it would be a segmentation fault."""
    (tmp_path / "deep.yaml").write_text(DEEP[name])
    done = run_command("-c", "import sys; from utils.files import read_yaml; "
                       "read_yaml(sys.argv[1], 'table')", tmp_path / "deep.yaml")
    assert done.returncode == 1 and "UserError" in done.stderr.splitlines()[-1], done.stderr[-500:]


@pytest.mark.parametrize("text", [BOMB, MERGES, "a: &a [*a]", "a: *b"])
def test_yaml_whose_aliases_explode_is_refused(tmp_path, text):
    (tmp_path / "bomb.yaml").write_text(text)
    with pytest.raises(UserError, match=r"aliases repeat|undefined|not YAML"):
        read_yaml(tmp_path / "bomb.yaml")


def test_aliases_that_a_writer_makes_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &id001 [1, 2]\nb: *id001\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": [1, 2], "b": [1, 2]}


def test_many_keys_that_stand_there_twice_are_refused_quickly(tmp_path):
    keys = ", ".join(f'"k{i}": 0' for i in range(60_000))
    (tmp_path / "a.json").write_text(f"{{{keys}, {keys}}}")
    begin = time.process_time()
    with pytest.raises(UserError, match="'k0' is there twice"):
        read_json(tmp_path / "a.json")
    assert time.process_time() - begin < 2


def test_files_of_too_many_values_are_refused_before_they_are_built(tmp_path, monkeypatch):
    for values in ("[],", '{"a":[1]},'):
        (tmp_path / "a.json").write_text(f"[{values * (parsing.MAX_VALUES // 2 + 1)}0]")
        begin = time.process_time()
        with pytest.raises(UserError, match="more than 5000000 values"):
            read_json(tmp_path / "a.json")
        assert time.process_time() - begin < 2
    monkeypatch.setattr(parsing, "MAX_YAML_VALUES", 1000)
    for text in ("- a\n" * 1001, "? a\n" * 1001, f"a: &a [{'1, ' * 500}]\nb: *a\nc: *a"):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(UserError, match="more than 1000 values"):
            read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/random", "pipe"])
def test_a_device_or_a_pipe_is_not_read(tmp_path, device):
    path = tmp_path / "pipe" if device == "pipe" else device
    if device == "pipe":
        os.mkfifo(path)
    for read in (read_text, read_json, read_yaml):
        with pytest.raises(UserError, match="a device or a pipe, not a file"):
            read(path)


@pytest.mark.parametrize("kind", ["symlink", "hard link", "pipe"])
def test_a_log_is_never_written_through_a_link(tmp_path, kind):
    target, path = tmp_path / "precious", tmp_path / "log"
    target.write_text("precious")
    {"symlink": lambda: path.symlink_to(target), "hard link": lambda: path.hardlink_to(target),
     "pipe": lambda: os.mkfifo(path)}[kind]()
    if kind == "pipe":  # which opens for both directions, and is found out by its kind
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(UserError, match="a link or a device"):
        open_log(path)
    if kind == "pipe":
        os.close(reader)
    assert target.read_text() == "precious"


def test_text_with_bytes_that_are_no_utf8_is_written(tmp_path):
    write_text(tmp_path / "log", "lost /data/\udcff.jpg")
    assert read_text(tmp_path / "log") == "lost /data/\\udcff.jpg"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_a_file_system_without_modes_and_folder_flushes_is_enough(tmp_path, monkeypatch, number):
    def refuse(*_args) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fchmod", refuse)
    monkeypatch.setattr(os, "fsync", refuse)
    write_json(tmp_path / "new" / "file.json", {"a": 1})
    assert read_json(tmp_path / "new" / "file.json") == {"a": 1}


def test_a_disk_that_fails_to_flush_is_an_error(tmp_path, monkeypatch):
    def fail(*_args) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write_json(tmp_path / "file.json", {"old": True})
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        write_json(tmp_path / "file.json", {"old": False})
    assert read_json(tmp_path / "file.json") == {"old": True}


def test_a_folder_in_use_is_never_made_anew(tmp_path):
    """A rename between a look at it and a write would leave results in two folders."""
    folder = tmp_path / "run"
    write_text(folder / "a", "1")
    with in_use(folder):
        write_text(folder / "iter_0" / "a", "1")
        folder.rename(tmp_path / "moved")
        for name in ("b", "iter_0/b"):
            with pytest.raises(UserError, match="run: renamed or removed while it was in use"):
                write_text(folder / name, "1")
        write_text(tmp_path / "other" / "b", "1")
    assert not folder.exists()
    write_text(folder / "b", "1")


def test_the_parents_of_a_new_folder_are_flushed(tmp_path, monkeypatch):
    flushed, real = [], os.fsync

    def note(handle: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", note)
    make_folder(tmp_path / "a" / "b" / "c")
    assert set(flushed) == {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a/b")}


def test_long_names_of_several_bytes_a_letter_are_written(tmp_path):
    write_json(tmp_path / ("ä" * 120), {})
    assert read_json(tmp_path / ("ä" * 120)) == {}


def test_integers_that_cannot_be_printed_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 0x" + "f" * 9000)
    with pytest.raises(UserError, match="an integer of 36000 bits"):
        read_yaml(tmp_path / "a.yaml")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == read_yaml(path) == {"a": 1}
