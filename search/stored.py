"""The settings of a search that a program made, in the form of `settings.json`.

With them, `msunas.py --resume`, `post_search.py` and the reports read its folder as any other.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from evaluator.jobs import EvaluatorSpec
from evaluator.options import EvaluationOptions, EvaluationSettings
from search.fingerprints import check_inputs, fingerprints, recorded_inputs
from search.finished import read_settings
from search.objectives import MEASURE, make_objectives
from search.run_folder import CODE_FLAGS, RunFolder
from search.settings import IDLE, ONLY_IN_PYTHON, OUTSIDE, Settings, check_unchanged, resolve
from search.strategies import STRATEGIES
from search_space import name_of
from search_space.backbones import width_from_name
from utils.errors import UserError
from utils.registry import name_in

if TYPE_CHECKING:
    from search.algorithm import Search

# What the costs of a program may set, and msunas.py takes from the supernet.
WIDTH = "width_mult"


def claim(search: "Search", folder: RunFolder) -> None:
    """Writes the settings of a search into its folder, after those that are there are compared.

    Raises:
        UserError: the folder holds a search with other settings or inputs, or other files.
    """
    values = settings_of(search, folder)
    stored = read_settings(folder.path)
    if not any(folder.path.glob("iter_*.stats")) and not any(folder.path.glob("iter_0/*.stats")):
        folder.check_unused()
    elif stored:
        inputs = recorded_inputs(stored)
        names = {*Settings.names(), WIDTH} - {"lut"}  # a table counts by its content, below
        check_unchanged(values, stored, str(folder.path), inputs, names)
        check_inputs(folder.path, inputs, values["inputs"])
    folder.write_settings(values)


def settings_of(search: "Search", folder: RunFolder) -> dict[str, Any]:
    """Returns the settings of a search, its inputs, and why only its program can resume it."""
    spec: EvaluatorSpec | None = getattr(search.engine, "spec", None)
    values = _plain({**_of_evaluator(spec), **_of_search(search), "save": str(folder.path)})
    try:
        values = resolve(values).to_json()
        reasons = list(_reasons(search, spec, values))
    except UserError as error:
        values, reasons = Settings(**values).to_json(), [str(error)]
    return {**values, WIDTH: search.costs.width_mult, "cwd": os.getcwd(),
            "inputs": fingerprints(values, search.costs.used_luts),
            **({ONLY_IN_PYTHON: reasons[0]} if reasons else {})}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values in JSON types: tuples and ranges are lists, paths are texts."""
    return {name: json.loads(json.dumps(list(value) if isinstance(value, range) else value,
                                        default=os.fspath)) for name, value in values.items()}


def _of_evaluator(spec: EvaluatorSpec | None) -> dict[str, Any]:
    """Returns what the workers' evaluator was built of; its own defaults where it was not told."""
    if spec is None:
        return {"evaluator": OUTSIDE}
    defaults = {} if spec.name in ("oracle", "table") else {
        option.name: getattr(EvaluationOptions, option.name)
        for option in fields(EvaluationSettings)}
    given = {name: value for name, value in spec.options.items() if name in Settings.names()}
    return {**defaults, **given, "evaluator": spec.name}


def _of_search(search: "Search") -> dict[str, Any]:
    """Returns what the arguments of `Search` are as settings."""
    space, costs, strategy = search.space, search.costs, search.strategy
    luts = [f"{tag}={path}" if tag else str(path) for tag, path in costs.luts.items()]
    luts += [MEASURE] if any(each.measured for each in search.objectives) else []
    names = [f"{each.key}:max" if each.maximise else each.key if each.source == "reported"
             else each.name for each in search.objectives]
    devices = getattr(search, "devices", None)
    return {
        "search_space": name_of(space), "sec_obj": "+".join(names), "lut": luts or None,
        **space.settings,
        "n_classes": costs.n_classes, "strategy": name_in(STRATEGIES, strategy),
        "predictor": search.predictor if search.predictor != strategy.default_predictor else None,
        "constraint": search.constraints.text, "n_doe": search.n_doe,
        "iterations": search.iterations, "n_iter": search.n_iter, "seed": search.seed,
        "uniform_sample": search.uniform_sample, "asynchronous": devices is not None,
        "devices": devices}


def _reasons(search: "Search", spec: EvaluatorSpec | None,
             values: Mapping[str, Any]) -> Iterator[str]:
    """Gives why msunas.py could not resume a search to the same results."""
    if spec is None:
        yield "it has evaluated the architectures itself"
        return
    if search.archive and not search.next_iteration:
        yield "it was told what had been measured before"
    for flag in CODE_FLAGS:
        if str(values[flag]).startswith("__main__:"):
            yield f"its {flag} is defined in the program, {values[flag]}"
    made = make_objectives(values["sec_obj"], search.costs, reported=True)
    if [each.describe() for each in made] != [each.describe() for each in search.objectives]:
        yield f"its objectives {values['sec_obj']} were made by the program"
    if spec.name not in IDLE and spec.options.get("seed", EvaluationSettings.seed) != search.seed:
        yield f"its evaluator has the seed {spec.options.get('seed', EvaluationSettings.seed)}, " \
            f"the search {search.seed}"
    width = width_from_name(values["supernet_path"] or "")
    if spec.name == "ofa" and width != search.costs.width_mult:
        yield f"its costs are of the width {search.costs.width_mult:g}, its supernet of {width:g}"
