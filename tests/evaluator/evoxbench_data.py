"""A miniature of EvoXBench's data, in its own schema: run as a script, it fills a folder.

    python tests/evaluator/evoxbench_data.py FOLDER

FOLDER gets `database` (the package's Django project and `db.sqlite3`), `data` (predictors and
tables in JSON) and `home/.config/evoxbench/config.json`, which names both. All figures are made up.
"""

import itertools
import json
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

# The graphs of NAS-Bench-101 that have a row: 26 genes, edges and operations.
INPUT_TO_OUTPUT = [0] * 5 + [1] + [0] * 20
ONE_VERTEX = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1] + [0] * 15


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def mobile_tables(data: Path) -> None:
    """Writes what the problems in1kmop7 to 9 read: two predictors, tables of costs."""
    rng = np.random.default_rng(0)
    layers = {f"W{i}": rng.normal(0, 0.1, shape).tolist()
              for i, shape in enumerate([(6, 128), (6, 6), (6, 6), (1, 6)], 1)}
    biases = {f"b{i}": [0.01] * width for i, width in enumerate([6, 6, 6, 1], 1)}
    model = {**layers, **biases, "normalization_factor": [0.0, 1.0]}
    for part, models in (("valid", [model, {**model, "b4": [0.02]}]), ("test", [model])):
        write_json(data / f"mnv3/{part}_acc_predictor_checkpoint.json", {
            "state_dicts": models, "remap_factor": [0.0, 0.1], "base_acc": 7.5})
    stages = list(itertools.pairwise((24, 32, 48, 96, 136, 192)))
    acts, squeezed = ["relu"] * 2 + ["h_swish"] * 3, ["false", "true", "false", "true", "true"]
    costs: dict = {}
    for (before, after), act, se in zip(stages, acts, squeezed, strict=True):
        for inputs, k, e, s in itertools.product({before, after}, (3, 5, 7), (3, 4, 6), (1, 2)):
            place = costs.setdefault(str(inputs), {}).setdefault(str(after), {})
            place = place.setdefault(str(k), {}).setdefault(str(e), {}).setdefault(str(s), {})
            place.setdefault(act, {})[se] = inputs * e * (k * k + after)
    write_json(data / "mnv3/params_model.json", {"MBConvLayer": costs, "OtherLayer": 4_000_000})
    write_json(data / "mnv3/flops_model.json", {})
    for size in (160, 176, 192, 208, 224):
        path = data / f"mnv3/note10/{size}_lookup_table.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


def fronts(data: Path) -> None:
    """Writes the true front and set that the problems c10mop1 and 2 read."""
    write_json(data / "nb101/nb101_pf.json", {"err&params": [[0.0, 2000], [1.0, 0]]})
    write_json(data / "nb101/nb101_ps.json", {"err&params": [ONE_VERTEX, INPUT_TO_OUTPUT]})


def rows() -> None:
    """Creates the tables of NAS-Bench-101 as the package's models describe them, and two rows."""
    from django.apps import apps
    from django.db import connection
    from evoxbench.benchmarks.nb101 import NASBench101Graph, NASBench101SearchSpace

    result = apps.get_model("nasbench101", "NASBench101Result")
    with connection.schema_editor() as editor:
        editor.create_model(result)
    for x, accuracies, params in ((INPUT_TO_OUTPUT, [0.48, 0.52], 10.0),
                                  (ONE_VERTEX, [0.88, 0.92], 1000.0)):
        arch = NASBench101SearchSpace().decode(np.array([x]))[0]
        graph = NASBench101Graph(**arch)
        result.objects.create(
            index=graph.hash_spec(["conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"]),
            params=params, flops=params, final_test_accuracy={"epoch108": accuracies},
            final_validation_accuracy={"epoch108": accuracies})


def main(folder: Path) -> None:
    database, data = folder / "database", folder / "data"
    package = Path(str(find_spec("evoxbench").origin)).parent
    shutil.copytree(package / "database", database)
    mobile_tables(data)
    fronts(data)
    write_json(folder / "home/.config/evoxbench/config.json",
               {"database": str(database), "model": str(data)})
    os.environ["HOME"] = str(folder / "home")
    rows()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
