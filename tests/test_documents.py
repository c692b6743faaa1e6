"""What documents and messages say of flags, commands, files and requirements is true."""

import argparse
import ast
import importlib
import platform
import re
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

from cli.scripts import Parser
from cli.version import program_version
from evaluator.latency import CONDITIONS
from search.run_folder import CODE_FLAGS
from search.settings import DERIVED, SPACE_OPTIONS, Settings
from tests.conftest import ROOT
from tests.published import MIGRATING, published_commands

# No part of the project: results, and environments and caches, whose names begin with a dot.
OTHERS = re.compile(r"\.|runs$")
DOCUMENTS = [path for path in sorted(ROOT.rglob("*.md"))
             if not any(map(OTHERS.match, path.relative_to(ROOT).parts))]
SOURCES = [path for path in sorted(ROOT.rglob("*.py"))
           if not re.match(r"\.|runs$|tests$|benchmarks$", path.relative_to(ROOT).parts[0])]
SHELL = sorted((ROOT / "scripts").glob("*.sh"))
FLAG = re.compile(r"(?<![\w-])--[A-Za-z][\w-]*")
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
# Flags of other programs, and where they may be named: torchrun, Ray, Slurm, kubectl, timm, pip,
# venv, uv. Python's parsers have --help.
TORCHRUN = {"--nnodes", "--rdzv_backend", "--rdzv_endpoint", "--rdzv_id"}
RAY = {"--head", "--working-dir"}
FOREIGN = {
    "docs/clusters.md": TORCHRUN | RAY | {
        "--address", "--port", "--block", "--nodes", "--ntasks", "--ntasks-per-node",
        "--gpus-per-node", "--exclude"},
    "docs/containers.md": {"--shm-size", "--cpus", "--cpuset-cpus", "--build-arg", "--rm",
                           "--user", "--gpus"},
    "data_providers/loading.py": {"--shm-size"},
    "evaluator/jobs/ray.py": RAY,
    "scripts/distributed_train.sh": TORCHRUN | {"--standalone", "--nproc_per_node"},
    "training/flags.py": {"--standalone", "--nproc_per_node", "--no-python"},
    "scripts/lock.sh": {"--quiet", "--no-config", "--generate-hashes", "--no-annotate",
                        "--no-header", "--python-version", "--python-platform", "--output-file",
                        "--constraint", "--group"},
    "scripts/setup_env.sh": {"--version", "--clear", "--quiet", "--disable-pip-version-check",
                             "--require-hashes", "--index-url", "--no-deps"},
    "scripts/test.sh": {"--require-hashes", "--upgrade", "--version"},
    "docs/install.md": {"--no-deps"},
    "benchmarks/gpu_check.py": {"--dest", "--implementation", "--no-deps", "--only-binary",
                                "--platform", "--python-version", "--quiet"},
    "docs/faults.md": {"--require-hashes"},
    "docs/devices.md": {"--onnx", "--fp16"},
    "docs/export.md": {"--device-modules"}, "msunas_timm/__init__.py": {"--device-modules"},
    "msunas_timm/__main__.py": {"--device-modules"},
    "benchmarks/timm_equality.py": {"--data-dir"},
    "benchmarks/report_page.py": {"--no-sandbox"}}
MODULES = {"-m pytest", "-m mypy", "-m ruff", "-m pip", "-m venv", "-m msunas_timm",
           "-m torch.distributed.run"}
COMMAND = re.compile(r"(?:python3?|bash|sh|\"\$PYTHON\") (?P<program>-m [\w.]+|[\w./]+\.(?:py|sh))"
                     r"(?P<rest>[^`|;>&#\n]*)")


@cache
def programs() -> dict[str, Path]:
    """The file of every program of the project that has a parser, by how it is called."""
    found = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not any(isinstance(node, ast.FunctionDef) and node.name == "get_args_parser"
                   for node in tree.body):
            continue
        name = path.relative_to(ROOT).as_posix()
        run = (name if "/" not in name or name.startswith("scripts/") else
               "-m " + name.removesuffix(".py").removesuffix("/__main__").replace("/", "."))
        found[run] = path
    return found


@cache
def parsers() -> dict[str, Parser]:
    """The parser of every program."""
    names = {run: path.relative_to(ROOT).as_posix().removesuffix(".py").replace("/", ".")
             for run, path in programs().items()}
    return {run: importlib.import_module(name).get_args_parser() for run, name in names.items()}


@cache
def flags_of(program: str) -> frozenset[str]:
    """The flags that a program of the project takes."""
    if program.startswith("benchmarks/"):
        text = (ROOT / program).read_text(encoding="utf-8")
        shared = (f"benchmarks/{name}.py" for name in re.findall(r"^from (\w+) import", text, re.M))
        return frozenset(re.findall(r'add_argument\("(--[\w-]+)', text)).union(
            *(flags_of(path) for path in shared if (ROOT / path).is_file()))
    if program.endswith(".sh"):
        text = (ROOT / program).read_text(encoding="utf-8")
        flags = set(re.findall(r"^\s*(--[\w-]+)\)", text, re.MULTILINE))
        for passed_on in re.findall(r"(?:scripts/|benchmarks/)?\w+\.py", text):
            if passed_on in parsers() or (ROOT / passed_on).is_file():
                flags |= set(flags_of(passed_on))
        return frozenset(flags)
    defined = parsers()[program]._option_string_actions
    return frozenset(defined) | {f"--{flag[2:].replace(*signs)}" for flag in defined
                                 for signs in ("-_", "_-") if flag.startswith("--")}


def action_of(parser: Parser, flag: str) -> argparse.Action | None:
    """What a parser does at a flag, which may be typed with `-` or `_`."""
    return parser._option_string_actions.get(parser.spelling(flag) or "")


@cache
def all_flags() -> frozenset[str]:
    """The flags of all programs."""
    programs = [*parsers(), *(f"benchmarks/{path.name}" for path in BENCHMARKS),
                *(path.relative_to(ROOT).as_posix() for path in SHELL)]
    return frozenset().union(*(flags_of(program) for program in programs))


def foreign(path: Path) -> set[str]:
    """The flags of other programs that a file may name."""
    return FOREIGN.get(path.relative_to(ROOT).as_posix(), set())


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


def test_flags_of_other_programs_are_named_where_it_says():
    for name, flags in FOREIGN.items():
        named = {flag for text in texts(ROOT / name) for flag in FLAG.findall(text)}
        assert flags <= named, f"{name} does not name {sorted(flags - named)}"


@pytest.mark.parametrize("path", [*SOURCES, *BENCHMARKS, *DOCUMENTS, *SHELL],
                         ids=lambda path: path.name)
def test_every_flag_that_is_named_exists(path):
    named = {flag for text in texts(path) for flag in FLAG.findall(without_migration(path, text))}
    unknown = named - all_flags() - foreign(path)
    assert not unknown, f"{path.relative_to(ROOT)} names {sorted(unknown)}, no program has it"


@pytest.mark.parametrize("program", sorted(programs()))
def test_a_script_names_its_own_flags_or_says_whose_they_are(program):
    for text in texts(programs()[program]):
        for flag in set(FLAG.findall(text)) - flags_of(program):
            owner = re.search(rf"([\w/]+\.(?:py|sh))`?[^.;]* {flag}", text)
            assert owner and flag in flags_of(owner[1]), \
                f"{program} has no {flag}, but says: {text[:80]!r}"


@pytest.mark.parametrize("path", [*DOCUMENTS, *SHELL, *SOURCES, *BENCHMARKS],
                         ids=lambda path: path.name)
def test_every_command_that_is_shown_has_its_flags(path):
    for text in texts(path):
        for match in COMMAND.finditer(text.replace("\\\n", " ")):
            program = match["program"]
            if program not in parsers() and not (ROOT / program).is_file():
                assert program in MODULES, f"{path.name}: there is no {program}"
                continue
            own, _, passed_on = match["rest"].partition(" -- ")
            unknown = set(FLAG.findall(own)) - flags_of(program) - foreign(path)
            unknown |= set(FLAG.findall(passed_on)) - flags_of("msunas.py") - foreign(path)
            assert not unknown, f"{path.name}: {program} has no {sorted(unknown)}"


def anchors(path: Path) -> set[str]:
    """What `#...` in a link can name on a page: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.DOTALL)
    for name, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
        page = (path.parent / name).resolve() if name else path
        assert page.exists(), f"{path.name} links {name}"
        assert not anchor or anchor in anchors(page), f"{path.name} links {name}#{anchor}"


def test_names_that_messages_turn_into_flags_are_flags():
    settings = {*Settings.names(), *CODE_FLAGS, *SPACE_OPTIONS} - {*DERIVED}
    assert {f"--{name}" for name in settings} <= flags_of("msunas.py")
    assert {f"--{name}" for name in CONDITIONS} <= flags_of("scripts/build_lut.py")


def test_every_program_prints_its_version(capsys):
    """What the template of an issue asks for; bench_onnx.py is copied to devices alone."""
    for run in sorted({*programs()} - {"scripts/bench_onnx.py"}):
        with pytest.raises(SystemExit) as end:
            parsers()[run].parse_args(["--version"])
        printed = capsys.readouterr().out.splitlines()
        assert end.value.code == 0 and len(printed) == 4
        assert printed[0] == f"msunas {program_version()}"
        assert printed[1].startswith(f"Python {platform.python_version()} ")
        assert f"torch {version('torch')}" in printed[2] and "CPU cores" in printed[3]


# bench_onnx.py is copied to devices alone, so its parser is the standard library's.
@pytest.mark.parametrize("run", sorted({*programs()} - {"scripts/bench_onnx.py"}))
def test_every_parser_takes_a_flag_with_either_sign_and_shows_one(run, capsys):
    parser = parsers()[run]
    flags = [flag for flag in parser._option_string_actions if flag.startswith("--")]
    assert len({flag.replace("-", "_") for flag in flags}) == len(flags)
    for name in (flag[2:] for flag in flags if flag != "--help"):
        for word in (f"--{name.replace('_', '-')}", f"--{name.replace('-', '_')}"):
            with suppress(SystemExit):  # for want of a value, or of another flag
                parser.parse_args([word])
            assert "unknown flag" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parser.parse_args(["--no_such_flag"])
    assert "unknown flag --no_such_flag" in capsys.readouterr().err


def test_every_script_with_data_can_fetch_it():
    for run, parser in parsers().items():
        taken = {action.dest for action in parser._actions}
        if "data" in taken and not run.startswith("scripts/report"):
            assert "download" in taken, f"{run} takes data and has no --download"


# ------------------------------------------------------------------ the original, docs/migrating.md

# Every flag of the six published scripts with its default; without one it is empty, off or 0.
ORIGINAL = {
    "msunas.py": """
        --save=.tmp --resume --sec_obj=flops --iterations=30 --n_doe=100 --n_iter=8
        --predictor=rbf --n_gpus=8 --gpu=1 --data=/mnt/datastore/ILSVRC2012
        --dataset=imagenet --n_classes=1000
        --supernet_path=./data/ofa_mbv3_d234_e346_k357_w1.0 --n_workers=4 --vld_size
        --trn_batch_size=128 --vld_batch_size=200 --n_epochs=5 --test""",
    "post_search.py": """
        --save=.tmp --expr --prefer -n=1 --supernet_path=./data/ofa_mbv3_d234_e346_k357_w1.0""",
    "validation.py": """
        --data=/mnt/datastore/ILSVRC2012 --dataset=imagenet -j=6 --workers=6 -b=256
        --batch-size=256 --img-size=224 --model -m --pretrained""",
    "train_cifar.py": """
        --seed --data=../data --dataset=cifar10 --batch-size=96 --num_workers=2 --n_gpus=1
        --lr=0.01 --momentum=0.9 --weight_decay=4e-5 --report_freq=50 --epochs=150
        --grad_clip=5 --cutout --cutout_length=16 --autoaugment --save --topk=10
        --evaluate --model=resnet101 --model-config --initial-checkpoint --drop=0.2
        --drop-path=0.2 --img-size=224""",
    "train_imagenet.py": """
        -c --config DATA --model=resnet101 --model-config --pretrained --initial-checkpoint
        --resume --no-resume-opt --num-classes=1000 --gp=avg --img-size --crop-pct --mean
        --std --interpolation -b=32 --batch-size=32 -vb=1
        --validation-batch-size-multiplier=1 --drop --drop-connect --drop-path
        --drop-block --jsd --teacher --reset-classifier --opt=sgd --opt-eps=1e-8
        --momentum=0.9 --weight-decay=0.0001 --sched=step --lr=0.01 --lr-noise
        --lr-noise-pct=0.67 --lr-noise-std=1.0 --warmup-lr=0.0001 --min-lr=1e-5
        --epochs=200 --start-epoch --decay-epochs=30 --warmup-epochs=3
        --cooldown-epochs=10 --patience-epochs=10 --decay-rate=0.1 --dr=0.1
        --color-jitter=0.4 --aa --aug-splits=0 --reprob --remode=const --recount=1
        --resplit --mixup --mixup-off-epoch=0 --smoothing=0.1 --train-interpolation=random
        --bn-tf --bn-momentum --bn-eps --sync-bn --dist-bn --split-bn --model-ema
        --model-ema-force-cpu --model-ema-decay=0.9998 --seed=42 --log-interval=50
        --recovery-interval=0 -j=4 --workers=4 --num-gpu=1 --save-images --amp --pin-mem
        --no-prefetcher --output --eval-metric=top1 --tta=0 --local_rank=0""",
    "evaluator.py": """
        --data=/mnt/datastore/ILSVRC2012 --log_dir=.tmp --dataset=imagenet --n_classes=1000
        --supernet_path=./data/ofa_mbv3_d234_e346_k357_w1.0 --subnet --config --init
        --trn_batch_size=128 --vld_batch_size=256 --num_workers=6 --n_epochs=0 --save
        --resolution=224 --valid_size --test --latency --verbose
        --reset_running_statistics --drop_rate=0.2 --drop_connect_rate --save_config"""}


def migration_table(script: str) -> list[list[str]]:
    """The rows of one script's table: flag, here, status, what differs."""
    section = MIGRATING.read_text(encoding="utf-8").split(f"## {script}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in section.splitlines() if line.startswith("| `")]
    return [[*(cell.strip("`") for cell in row[:2]), *row[2:]] for row in rows]


def equal_defaults(original: str, ours: object) -> bool:
    """Whether a default of the original is ours; empty, off and 0 are the same."""
    try:
        return float(original or 0) == float(ours or 0)
    except (TypeError, ValueError):
        return original == str(ours or "")


@pytest.mark.parametrize("script", ORIGINAL)
def test_the_migration_table_has_every_flag_and_tells_the_truth(script):
    rows = migration_table(script)
    defaults = {flag: default for flag, _, default in
                (word.partition("=") for word in ORIGINAL[script].split())}
    assert [row[0] for row in rows] == list(defaults)
    parser = parsers()["-m evaluator" if script == "evaluator.py" else script]
    for old, new, status, reason in rows:
        if old == "DATA":
            continue
        if status == "same":
            assert old == new and action_of(parser, new), f"{script}: {old} is not taken"
        elif status == "alias":
            assert action_of(parser, old) and action_of(parser, old) is action_of(parser, new), \
                f"{script}: {old} is not another spelling of {new}"
        else:
            assert status == "changed" and reason, f"{script}: {old} without a reason"
            assert not new or action_of(parser, new), f"{script}: {new} is not taken"
        if new:
            default = action_of(parser, new).default
            assert equal_defaults(defaults[old], default) or \
                re.search("default|accepted|^as `", reason), \
                f"{script}: the default of {old} is {default}, not {defaults[old]}: say so"
            said = re.search(r"(?<!no )default `?([\w./-]+?)`?[,;:]", f"{reason};")
            assert said is None or said[1] == str(default), f"{script}: {old} says {said[1]}"


# A mark in the code, and the row of docs/migrating.md that explains it.
MARK = re.compile(r"DEVIATION ([a-z][a-z0-9-]*): \S")


def departures() -> dict[str, list[str]]:
    """The rows of the table of departures by their key: original, here, why."""
    section = MIGRATING.read_text(encoding="utf-8").split("## Departures\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in section.splitlines() if line.startswith("| `")]
    assert len({row[0] for row in rows}) == len(rows), "a key stands in two rows"
    return {key.strip("`"): cells for key, *cells in rows}


def marks() -> dict[str, set[str]]:
    """The files that carry each mark."""
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        keys = MARK.findall(text)
        assert text.count("DEVIATION") == len(keys), f"{path}: write `DEVIATION key: reason`"
        for key in keys:
            found.setdefault(key, set()).add(path.relative_to(ROOT).as_posix())
    return found


def test_every_departure_is_marked_in_the_code_and_every_mark_explained():
    explained, marked = departures(), marks()
    assert len(explained) > 20
    assert explained.keys() == marked.keys(), "rows of docs/migrating.md, marks in the code"
    for key, cells in explained.items():
        assert len(cells) == 3 and all(cells), f"{key}: original, here, why"


@pytest.mark.parametrize("command", published_commands(), ids=lambda words: " ".join(words)[:60])
def test_every_published_command_is_taken(command):
    words = command[2:]
    script = command[1]
    if script.endswith(".sh"):
        script, words = "train_imagenet.py", words[1:]
    parsers()[script].parse_args(words)


# ------------------------------------------------------------------------------------ requirements


# Imported where it is installed; the flag or method that needs it says so where it is not.
OPTIONAL = {"evoxbench", "modelopt", "nats_bench", "pandas", "shtab", "wandb"}
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
