"""What is chosen by a model's expectation instead of by lucky measurements."""

import json

import numpy as np
import pytest

from search.archive import Record, Stats, arch_key, write_stats
from search.objectives import SpaceCosts
from search.selection import expected_errors, front_within, images_of, trusted
from search_space import OFASearchSpace

SPACE = OFASearchSpace([192, 224, 256])
N, NOISE = 300, 1.0


def noisy_archive(seed):
    """Returns an archive with noisy errors, its vectors, and the true errors by architecture."""
    rng = np.random.default_rng(seed)
    X = SPACE.draw(N, rng)
    flops = SpaceCosts(SPACE).counted("flops")(X)
    truth = 40 - 8 * np.log(flops / 100) + X[:, -1] / 4  # large images cost more than they give
    measured = truth + NOISE * rng.standard_normal(len(X))
    archs = [SPACE.decode(x) for x in X]
    records = [Record(*row) for row in zip(archs, measured.tolist(), flops.tolist(), strict=True)]
    return records, X, dict(zip(map(arch_key, archs), truth, strict=True))


def test_expected_errors_are_nearer_to_the_truth_than_measured_ones():
    for seed in range(3):
        records, X, truth = noisy_archive(seed)
        believed, expected = trusted(records, X, SPACE, seed=0)
        actual = np.array([truth[arch_key(record.arch)] for record in records])
        of = [np.array([record.top1_err for record in each]) for each in (records, believed)]
        measured_rmse, rmse = (np.sqrt(np.mean((errors - actual) ** 2)) for errors in of)
        assert rmse < 0.75 * measured_rmse
        assert [expected[arch_key(record.arch)][0] for record in believed] == pytest.approx(
            100 - of[1])
        stds = np.array([expected[arch_key(record.arch)][1] for record in believed])
        assert np.mean(np.abs(of[1] - actual) < 2 * stds) > 0.8
        # a front of measurements promises more than it holds, the model's less so
        promised, modelled = (np.mean([truth[arch_key(r.arch)] - r.top1_err for r in front])
                              for front in (front_within(records, [], "flops"),
                                            front_within(believed, [], "flops")))
        assert modelled < 0.7 * promised


@pytest.mark.parametrize(("settings", "flags", "by_model"), [
    (None, (), False), (None, ("--trust", "model"), True),
    ({"strategy": "msunas", "evaluator": "ofa"}, (), False),
    ({"strategy": "ehvi", "evaluator": "ofa"}, (), True),
    ({"strategy": "ehvi", "evaluator": "ofa"}, ("--trust", "measured"), False),
    ({"strategy": "ehvi", "evaluator": "oracle"}, (), False)])
def test_the_command_chooses_by_the_model_where_images_were_scored(
        tmp_path, run_command, settings, flags, by_model):
    records, X, _ = noisy_archive(0)
    write_stats(tmp_path / "iter_0.stats", Stats(records, records, 0.5, sec_obj="flops"))
    if settings:
        (tmp_path / "settings.json").write_text(json.dumps(settings))
    done = run_command("post_search.py", "--expr", tmp_path, "--list", "--format", "json", *flags)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    measured = {arch_key(record.arch): record.top1_err for record in records}
    assert all(row["top1_err"] == pytest.approx(measured[arch_key(row["arch"])], abs=1e-4)
               for row in rows)
    believed, _ = trusted(records, X, SPACE, seed=0)
    front = front_within(believed if by_model else records, [], "flops")
    assert [arch_key(row["arch"]) for row in rows] == [arch_key(r.arch) for r in front]
    assert all(("expected_top1" in row and "std" in row) == by_model for row in rows)


def test_trust_is_refused_where_nothing_is_chosen_or_known(tmp_path, fails_clearly):
    records, _, _ = noisy_archive(0)
    write_stats(tmp_path / "iter_0.stats", Stats(records, records, 0.5, sec_obj="flops"))
    fails_clearly("post_search.py", "--expr", tmp_path, "--list", "--pick", "3", "--trust", "model",
                  match="--trust: has no meaning next to --pick")
    write_stats(tmp_path / "iter_0.stats", Stats(records, records, 0.5, sec_obj="flops",
                                                 search_space="toykit:Toy"))
    fails_clearly("post_search.py", "--expr", tmp_path, "--list", "--trust", "model",
                  match="--trust model: needs the search space")


def test_the_sampling_error_of_the_images_is_the_least_noise():
    archive, X, truth = noisy_archive(0)
    records, X = archive[:40], X[:40]  # too few to tell noise from interactions of genes
    actual = np.array([truth[arch_key(record.arch)] for record in records])
    measured = np.array([record.top1_err for record in records])
    n_images = int(np.mean(measured * (100 - measured)) / NOISE ** 2)  # its error is the noise
    plain, known = (expected_errors(records, X, SPACE, 0, n)[:, 0] for n in (None, n_images))
    assert np.sqrt(np.mean((known - actual) ** 2)) < np.sqrt(np.mean((plain - actual) ** 2))
    np.testing.assert_array_equal(expected_errors(records, X, SPACE, 0, 10 ** 9)[:, 0], plain)


@pytest.mark.parametrize(("settings", "images"), [
    ({}, None), ({"vld_size": None}, None), ({"vld_size": 500}, 500),
    ({"vld_size": 500, "test": True}, None)])
def test_the_images_of_a_search_are_known_where_they_were_split_off(settings, images):
    assert images_of(settings) == images
