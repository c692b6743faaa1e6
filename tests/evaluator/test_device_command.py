"""Commands that measure on a device: what they print, how they fail, what is left of them."""

import os
import sys
import time

import pytest

from evaluator.device_command import DeviceCommand, DeviceError, figures
from utils.errors import UserError


def command(code, *words, **options):
    """A command that runs Python code; it has no retries unless it is given some."""
    options = {"retries": 0, **options}
    return DeviceCommand((sys.executable, "-c", code, "{model}", *words), **options)


@pytest.mark.parametrize(("text", "expected"), [
    ("3.5", {"ms": 3.5}), ("run 1: 12 ms\nmean 4.25 ms\n", {"ms": 4.25}), ("1e-3\n", {"ms": 1e-3}),
    ('loading\n{"ms": 2, "mj": 7.5, "who": "pi"}\n', {"ms": 2.0, "mj": 7.5}),
    ('{"ms": [3, 1, 100]}', {"ms": 3.0}), ('{\n "ms": 4\n}\n', {"ms": 4.0}),
    ('{"ms": 4}\nbye 17\n', {"ms": 4.0})])
def test_figures_are_the_last_number_or_json(text, expected):
    assert figures(text) == expected


@pytest.mark.parametrize(("text", "match"), [
    ("", "printed nothing"), ("  \n", "printed nothing"), ("no network\n", "no number.*no network"),
    ("0", "above 0"), ("-3", "above 0"), ('{"ms": "fast"}', "'ms'"), ('{"ms": []}', "'ms'"),
    ('{"mj": 3}', "'ms'"), ('{"ms": true}', "'ms'"), ('{"ms": NaN}', "no number")])
def test_anything_else_is_no_figure(text, match):
    with pytest.raises(DeviceError, match=match):
        figures(text)


def test_another_figure_can_be_asked_for():
    assert figures('{"ms": 2, "mj": 7}', "mj")["mj"] == 7
    assert figures("7", "mj") == {"mj": 7}


def test_words_are_passed_without_a_shell(tmp_path):
    name = tmp_path / "a b; touch pwned $(id).onnx"
    code = "import sys; print(len(sys.argv), sys.argv[1] == sys.argv[3][2:], 5)"
    found = command(code, "{r}px", "m={model}").measure({"{model}": name, "{r}": 224})
    assert found == {"ms": 5} and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "match"), [
    ("ssh pi 'bench {model}", "quotation"), ("", "write {model}"), ("bench {r}", "write {model}")])
def test_a_command_that_cannot_measure_is_refused(text, match):
    with pytest.raises(UserError, match=match):
        DeviceCommand.parse(text)


def test_a_program_that_is_not_there_is_bad_input():
    with pytest.raises(UserError, match="no_such_program: No such file"):
        DeviceCommand.parse("no_such_program {model}").measure({"{model}": "x"})


@pytest.mark.parametrize(("code", "match"), [
    ("import sys; print(3); sys.exit('no route to host')", "exit code 1: no route to host"),
    ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL"), ("pass", "printed nothing")])
def test_failures_are_one_line(code, match):
    with pytest.raises(DeviceError, match=match) as failure:
        command(code).measure({"{model}": "x"})
    assert "\n" not in str(failure.value)


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path):
    code = ("import os, subprocess, sys, time\n"
            "child = subprocess.Popen(['sleep', '60'])\n"
            f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
            "time.sleep(60)")
    start = time.monotonic()
    with pytest.raises(DeviceError, match="no answer within 2 s"):
        command(code, timeout=2).measure({"{model}": "x"})
    assert time.monotonic() - start < 30
    assert ended(int((tmp_path / "pid").read_text()))


def ended(pid):
    """Whether a process is gone, or a zombie, within ten seconds."""
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False


def test_a_failure_is_tried_again(tmp_path):
    log = tmp_path / "log"
    code = (f"import os; n = os.path.exists({str(log)!r}); open({str(log)!r}, 'w').close()\n"
            "print(8 if n else 'starting')")
    assert command(code, retries=1).measure({"{model}": "x"}) == {"ms": 8}


def test_a_flood_of_output_takes_no_memory():
    code = "import sys; [sys.stdout.write('x' * 10**6 + '\\n') for _ in range(50)]; print(6)"
    assert command(code).measure({"{model}": "x"}) == {"ms": 6}
