"""Inputs of a search that lie elsewhere when it is resumed, and searches resumed from elsewhere."""

import json
import shutil

import pytest

from search.fingerprints import fingerprints
from search.settings import Settings, rebased, resume
from tests.conftest import ROOT
from utils.errors import UserError

PROGRAM = ROOT / "msunas.py"
FLAGS = ("--n_doe", 8, "--iterations", 1, "--n_iter", 2, "--strategy", "random", "--no_report")


def searches(folder) -> dict[str, tuple]:
    """For each input that is quickly searched: its file in `folder`, and the flags that read it."""
    rows = [f"{a},{b},{60 + a - b},{a * b}" for a in range(5) for b in range(5)]
    (folder / "rows.csv").write_text("\n".join(["a,b,acc,size", *rows]) + "\n")
    shutil.copy(ROOT / "data/digits_predictor.json", folder / "oracle.json")
    return {"table": ("rows.csv", "--search_space", "table", "--genes", "a,b", "--accuracy", "acc",
                      "--sec_obj", "size"),
            "oracle_path": ("oracle.json", "--evaluator", "oracle")}


@pytest.fixture(params=["table", "oracle_path"])
def begun(request, tmp_path, run_command):
    """A search in `run`, begun in the folder `first` with the relative path of an input."""
    first = tmp_path / "first"
    first.mkdir()
    file, *flags = searches(first)[request.param]
    done = run_command(PROGRAM, "--save", tmp_path / "run", f"--{request.param}", file, *flags,
                       *FLAGS, cwd=first)
    assert done.returncode == 0, done.stderr
    return request.param, first / file


def stored(folder) -> dict:
    return json.loads((folder / "run" / "settings.json").read_text())


def test_relative_paths_are_those_of_the_folder_where_they_were_typed(begun, tmp_path, run_command):
    flag, file = begun
    other = tmp_path / "other"
    other.mkdir()
    (other / file.name).write_text("another file of that name")
    done = run_command(PROGRAM, "--resume", tmp_path / "run", "--iterations", 2, "--no_report",
                       cwd=other)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/iter_2.stats").exists()
    assert stored(tmp_path)[flag] == str(file)
    done = run_command(PROGRAM, "--resume", tmp_path / "run", "--no_report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_moved_input_of_equal_content_is_accepted_and_recorded(begun, tmp_path, run_command):
    flag, file = begun
    before = stored(tmp_path)
    file.rename(tmp_path / "moved")
    done = run_command(PROGRAM, "--resume", tmp_path / "run", f"--{flag}", "moved",
                       "--iterations", 2, "--no_report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/iter_2.stats").exists()
    after = stored(tmp_path)
    assert (after[flag], after["cwd"]) == ("moved", str(tmp_path))
    assert after["inputs"] == before["inputs"]
    done = run_command(PROGRAM, "--resume", tmp_path / "run", "--iterations", 3, "--no_report")
    assert done.returncode == 0, done.stderr


def test_a_moved_input_of_another_content_is_refused(begun, tmp_path, run_command):
    flag, file = begun
    before = stored(tmp_path)
    moved = tmp_path / "moved"
    text = file.read_text()
    moved.write_text(text.replace("60", "61", 1) if flag == "table" else f"{text}\n")
    done = run_command(PROGRAM, "--resume", tmp_path / "run", f"--{flag}", moved)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"--{flag} is {moved}, was " in done.stderr
    assert "with another content" in done.stderr
    assert stored(tmp_path) == before


@pytest.mark.parametrize("flag", ["supernet_path", "data"])
def test_a_moved_supernet_or_data_set_is_known_by_its_fingerprint(tmp_path, flag):
    for place in ("old", "new", "changed"):
        for kind in ("cat", "dog"):
            (tmp_path / place / "train" / kind).mkdir(parents=True)
            (tmp_path / place / "train" / kind / "a.png").write_text(place[:3])
        shutil.copy(ROOT / "data/ofa_digits_d234_e346_k357_w0.35", tmp_path / f"{place}_net")
    (tmp_path / "changed" / "train" / "cat" / "b.png").touch()
    with open(tmp_path / "changed_net", "ab") as file:
        file.write(b"\0")

    def path(place: str) -> str:
        return str(tmp_path / (place if flag == "data" else f"{place}_net"))

    settings = Settings(dataset="digits" if flag == "supernet_path" else "folder",
                        evaluator="ofa", **{flag: path("old")}).to_json()
    if flag == "data":
        settings["supernet_path"] = str(tmp_path / "old_net")
        settings["n_classes"] = 2
    inputs = fingerprints(settings, {})
    assert getattr(resume({flag: path("new")}, settings, "run", inputs), flag) == path("new")
    with pytest.raises(UserError, match="with another content"):
        resume({flag: path("changed")}, settings, "run", inputs)
    with pytest.raises(UserError, match=r"with other flags.*not there to compare"):
        resume({flag: path("absent")}, settings, "run", inputs)
    with pytest.raises(UserError, match="with other flags"):  # nothing is known of the old one
        resume({flag: path("new")}, settings, "run", {})


def test_moved_latency_tables_are_known_by_their_fingerprints(tmp_path):
    for name, text in {"old": "a: 1", "new": "a: 1", "other": "a: 2", "pi": "b: 1"}.items():
        (tmp_path / name).write_text(text)

    def luts(name: str) -> list[str]:
        return [str(tmp_path / name), f"pi={tmp_path / 'pi'}"]

    settings = Settings(evaluator="ofa", dataset="digits", lut=luts("old"),
                        supernet_path=str(ROOT / "data/ofa_digits_d234_e346_k357_w0.35")).to_json()
    inputs = fingerprints(settings, {"": str(tmp_path / "old"), "pi": str(tmp_path / "pi")})
    assert resume({"lut": luts("new")}, settings, "run", inputs).lut == luts("new")
    with pytest.raises(UserError, match="with another content"):
        resume({"lut": luts("other")}, settings, "run", inputs)
    with pytest.raises(UserError, match="with other flags"):  # the second is missing
        resume({"lut": luts("new")[:1]}, settings, "run", inputs)


def test_only_what_is_found_from_the_old_folder_is_rebased(tmp_path):
    for name in ("net", "lut.yaml", "measure"):
        (tmp_path / name).touch()
    settings = {"supernet_path": "net", "data": "absent", "table": None, "oracle_path": "/etc",
                "lut": ["lut.yaml", "cpu=measure", "pi=lut.yaml"], "seed": 3}
    assert rebased(settings, str(tmp_path)) == {
        **settings, "supernet_path": str(tmp_path / "net"),
        "lut": [str(tmp_path / "lut.yaml"), "cpu=measure", f"pi={tmp_path / 'lut.yaml'}"]}
    for folder in (".", "", "\0", str(tmp_path / "absent")):
        assert rebased(settings, folder) == settings
