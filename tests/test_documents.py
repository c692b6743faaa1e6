"""What documents and messages say of flags, commands, files and requirements is true."""

import ast
import importlib
import re
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCUMENTS = [path for path in sorted(ROOT.rglob("*.md"))
             if not {".venv", "runs", ".pytest_cache"} & set(path.relative_to(ROOT).parts)]
SOURCES = [path for path in sorted(ROOT.rglob("*.py"))
           if path.relative_to(ROOT).parts[0] not in {".venv", "tests", "benchmarks", "runs"}]
SHELL = sorted((ROOT / "scripts").glob("*.sh"))
FLAG = re.compile(r"(?<![\w-])--[A-Za-z][\w-]*")
# Flags of other programs: torchrun, Ray, Slurm, kubectl, pip, uv, git, pytest, timm.
FOREIGN = {"--standalone", "--nproc_per_node", "--nnodes", "--rdzv_backend", "--rdzv_endpoint",
           "--rdzv_id", "--node_rank", "--head", "--address", "--port", "--block", "--nodes",
           "--ntasks", "--ntasks-per-node", "--gpus-per-node", "--exclude", "--working-dir",
           "--index-url", "--extra-index-url", "--quiet", "--disable-pip-version-check", "--clear",
           "--help", "--version", "--upgrade", "--durations", "--requirement",
           "--require-hashes", "--generate-hashes", "--no-annotate", "--no-config", "--no-header",
           "--output-file", "--python-platform", "--python-version", "--constraint",
           "--device-modules"}
COMMAND = re.compile(r"(?:python3?|bash|sh|\"\$PYTHON\") (?P<program>-m [\w.]+|[\w./]+\.(?:py|sh))"
                     r"(?P<rest>[^`|;>&#\n]*)")


@cache
def parsers() -> dict[str, object]:
    """Every parser of the project, by how its program is called."""
    found = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not any(isinstance(node, ast.FunctionDef) and node.name == "get_args_parser"
                   for node in tree.body):
            continue
        name = path.relative_to(ROOT).as_posix()
        module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
        run = (name if "/" not in name or name.startswith("scripts/") else
               "-m " + name.removesuffix(".py").removesuffix("/__main__").replace("/", "."))
        found[run] = module.get_args_parser()
    return found


@cache
def flags_of(program: str) -> frozenset[str]:
    """The flags that a program of the project takes."""
    if program.startswith("benchmarks/"):
        text = (ROOT / program).read_text(encoding="utf-8")
        return frozenset(re.findall(r'add_argument\("(--[\w-]+)', text))
    if program.endswith(".sh"):
        text = (ROOT / program).read_text(encoding="utf-8")
        flags = set(re.findall(r"^\s*(--[\w-]+)\)", text, re.MULTILINE))
        for passed_on in re.findall(r"[\w]+\.py", text):
            flags |= set(flags_of(passed_on)) if passed_on in parsers() else set()
        return frozenset(flags)
    return frozenset(parsers()[program]._option_string_actions)


def all_flags() -> set[str]:
    """The flags of all programs."""
    benchmarks = sorted((ROOT / "benchmarks").glob("*.py"))
    programs = [*parsers(), *(f"benchmarks/{path.name}" for path in benchmarks),
                *(path.relative_to(ROOT).as_posix() for path in SHELL)]
    return set(FOREIGN).union(*(flags_of(program) for program in programs))


def texts(path: Path) -> list[str]:
    """What a file says to people: all of a document, the string literals of a program."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return [text]
    return [node.value for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def without_migration(path: Path, text: str) -> str:
    """Cuts the first column of the tables of docs/migrating.md: flags of another program."""
    if path.name != "migrating.md":
        return text
    return re.sub(r"^\| `-[^|]*\|", "|", text, flags=re.MULTILINE)


def test_every_program_is_found():
    assert {"msunas.py", "post_search.py", "-m evaluator", "-m evaluator.costs",
            "scripts/build_lut.py"} <= set(parsers())
    assert len(DOCUMENTS) > 10 and len(SOURCES) > 50


@pytest.mark.parametrize("path", [*SOURCES, *DOCUMENTS, *SHELL], ids=lambda path: path.name)
def test_every_flag_that_is_named_exists(path):
    named = {flag for text in texts(path) for flag in FLAG.findall(without_migration(path, text))}
    unknown = named - all_flags()
    assert not unknown, f"{path.relative_to(ROOT)} names {sorted(unknown)}, no program has it"


@pytest.mark.parametrize("path", [*DOCUMENTS, *SHELL, *SOURCES], ids=lambda path: path.name)
def test_every_command_that_is_shown_has_its_flags(path):
    for text in texts(path):
        for match in COMMAND.finditer(text.replace("\\\n", " ")):
            program = match["program"]
            if program not in parsers() and not (ROOT / program).is_file():
                assert program.startswith("-m "), f"{path.name}: there is no {program}"
                continue
            unknown = set(FLAG.findall(match["rest"])) - flags_of(program) - FOREIGN
            assert not unknown, f"{path.name}: {program} has no {sorted(unknown)}"


def test_every_script_with_data_can_fetch_it():
    for run, parser in parsers().items():
        taken = {action.dest for action in parser._actions}
        if "data" in taken and not run.startswith("scripts/report"):
            assert "download" in taken, f"{run} takes data and has no --download"


# ------------------------------------------------------------------ the original, docs/migrating.md

MIGRATING = ROOT / "docs" / "migrating.md"
# Every flag of the six published scripts.
ORIGINAL = {
    "msunas.py": """--save --resume --sec_obj --iterations --n_doe --n_iter --predictor --n_gpus
        --gpu --data --dataset --n_classes --supernet_path --n_workers --vld_size --trn_batch_size
        --vld_batch_size --n_epochs --test""",
    "post_search.py": "--save --expr --prefer -n --supernet_path",
    "validation.py": """--data --dataset -j --workers -b --batch-size --img-size --model -m
        --pretrained""",
    "train_cifar.py": """--seed --data --dataset --batch-size --num_workers --n_gpus --lr --momentum
        --weight_decay --report_freq --epochs --grad_clip --cutout --cutout_length --autoaugment
        --save --topk --evaluate --model --model-config --initial-checkpoint --drop --drop-path
        --img-size""",
    "train_imagenet.py": """-c --config DATA --model --model-config --pretrained
        --initial-checkpoint --resume --no-resume-opt --num-classes --gp --img-size --crop-pct
        --mean --std --interpolation -b --batch-size -vb --validation-batch-size-multiplier --drop
        --drop-connect --drop-path --drop-block --jsd --teacher --reset-classifier --opt --opt-eps
        --momentum --weight-decay --sched --lr --lr-noise --lr-noise-pct --lr-noise-std --warmup-lr
        --min-lr --epochs --start-epoch --decay-epochs --warmup-epochs --cooldown-epochs
        --patience-epochs --decay-rate --dr --color-jitter --aa --aug-splits --reprob --remode
        --recount --resplit --mixup --mixup-off-epoch --smoothing --train-interpolation --bn-tf
        --bn-momentum --bn-eps --sync-bn --dist-bn --split-bn --model-ema --model-ema-force-cpu
        --model-ema-decay --seed --log-interval --recovery-interval -j --workers --num-gpu
        --save-images --amp --pin-mem --no-prefetcher --output --eval-metric --tta --local_rank""",
    "evaluator.py": """--data --log_dir --dataset --n_classes --supernet_path --subnet --config
        --init --trn_batch_size --vld_batch_size --num_workers --n_epochs --save --resolution
        --valid_size --test --latency --verbose --reset_running_statistics --drop_rate
        --drop_connect_rate --save_config"""}


def migration_table(script: str) -> list[list[str]]:
    """The rows of one script's table: flag, here, status, what differs."""
    section = MIGRATING.read_text(encoding="utf-8").split(f"## {script}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in section.splitlines() if line.startswith("| `")]
    return [[*(cell.strip("`") for cell in row[:2]), *row[2:]] for row in rows]


@pytest.mark.parametrize("script", ORIGINAL)
def test_the_migration_table_has_every_flag_and_tells_the_truth(script):
    rows = migration_table(script)
    assert [row[0] for row in rows] == ORIGINAL[script].split()
    actions = parsers()["-m evaluator" if script == "evaluator.py" else script]\
        ._option_string_actions
    for old, new, status, reason in rows:
        if old == "DATA":
            continue
        if status == "same":
            assert old == new and new in actions, f"{script}: {old} is not taken"
        elif status == "alias":
            assert actions.get(old) and actions[old] is actions.get(new), \
                f"{script}: {old} is not another spelling of {new}"
        else:
            assert status == "changed" and reason, f"{script}: {old} without a reason"
            assert not new or new in actions, f"{script}: {new} is not taken"


def published_commands() -> list[list[str]]:
    """The published commands, as docs/migrating.md has them."""
    section = MIGRATING.read_text(encoding="utf-8").split("## Published commands\n")[1]
    return [line.split("`")[1].split() for line in section.splitlines()
            if line.startswith(("| `python", "| `sh"))]


@pytest.mark.parametrize("command", published_commands(), ids=lambda words: " ".join(words)[:60])
def test_every_published_command_is_taken(command):
    words = command[2:]
    script = command[1]
    if script.endswith(".sh"):
        script, words = "train_imagenet.py", words[1:]
    parsers()[script].parse_args(words)


# ------------------------------------------------------------------------------------ requirements


# Imported where it is installed; the flag that needs it says so where it is not.
OPTIONAL = {"nats_bench", "shtab", "wandb"}
# What builds the wheel; pyproject.toml names it.
BUILD = {"setuptools"}
USED = ("requirements.txt", "requirements-ray.txt", "requirements-export.txt")


def declared(*files: str) -> set[str]:
    """Names of the distributions that requirements files pin, in lower case."""
    lines = "\n".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    # those of a backend that needs an environment of its own are commented out
    return {name.lower().replace("_", "-")
            for name in re.findall(r"^(?:# )?([\w.-]+)==", lines, re.MULTILINE)}


def imported(path: Path) -> set[str]:
    """Top-level modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    own = {script.stem for script in [*ROOT.glob("*.py"), *ROOT.glob("benchmarks/*.py")]}
    own |= {folder.name for folder in ROOT.iterdir() if folder.is_dir()}
    return names - own - OPTIONAL - BUILD - set(sys.stdlib_module_names)


@pytest.mark.parametrize(("folders", "files"), [
    (("tests", "benchmarks"), (*USED, "requirements-dev.txt", "requirements-peers.txt")),
    ((), USED)])
def test_every_direct_import_is_declared(folders, files):
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")] or SOURCES
    pinned, distributions = declared(*files), packages_distributions()
    for path in paths:
        for module in imported(path):
            names = {name.lower().replace("_", "-") for name in distributions.get(module, [module])}
            assert names & pinned, f"{path.relative_to(ROOT)} imports {module}, which no " \
                                   f"requirements file pins ({', '.join(names)})"
