"""What the tests of the search share: its command on a tiny budget, and the files of a run."""

from pathlib import Path

EVALUATOR = "tests.search.evaluators:Formula"
# A settings file that names code is only obeyed where the flag is typed again.
TRUSTED = ("--evaluator", EVALUATOR)
BUDGET = ("--n_doe", 52, "--iterations", 2, "--n_iter", 4)


def command(save, *flags) -> list[str]:
    return ["msunas.py", "--evaluator", EVALUATOR, "--save", str(save),
            *map(str, BUDGET + flags)]


def resume(save) -> list[str]:
    """The command that goes on with a run; code that its settings name must be typed again."""
    return ["msunas.py", "--resume", str(save), "--evaluator", EVALUATOR]


# What differs between equal runs: the settings name the folder, the others hold times.
UNREPEATABLE = ("settings.json", "events.jsonl", "report.html")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run that an equal run has, too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name not in UNREPEATABLE}
