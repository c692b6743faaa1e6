"""The commands that the original publishes, as docs/migrating.md has them."""

from tests.conftest import ROOT

MIGRATING = ROOT / "docs" / "migrating.md"


def published_commands() -> list[list[str]]:
    """The words of every published command."""
    section = MIGRATING.read_text(encoding="utf-8").split("## Published commands\n")[1]
    return [line.split("`")[1].split() for line in section.splitlines()
            if line.startswith(("| `python", "| `sh"))]


def published_command(script: str, **values: object) -> list[str]:
    """The words of the one published command of a script, after the script's name.

    Args:
        script: `post_search.py`, `scripts/distributed_train.sh`, ...
        values: paths and sizes of a test, by the flag: `img_size=32` for `--img-size`.
    """
    (words,) = (words[2:] for words in published_commands() if words[1] == script)
    for name, value in values.items():
        flag = f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"
        words[words.index(flag) + 1] = str(value)
    return words
