"""Files of networks that a front is compared with."""

import json

import pytest

from search.baseline import TEST, VALIDATION, Baseline, read_baselines, write_baselines
from utils.errors import UserError
from utils.files import write_json

NETWORK = Baseline("a net, 64 px", {"flops": 31.3, "cpu": 2}, {VALIDATION: 82.0, TEST: 80.5},
                   {VALIDATION: 100, TEST: 1000})


def test_a_file_gives_back_what_was_written(tmp_path):
    write_baselines(tmp_path / "b.json", [NETWORK])
    assert read_baselines(tmp_path / "b.json") == [NETWORK]
    assert NETWORK.line() == ("a net, 64 px (flops 31.3, cpu 2): 82.00 % on 100 validation images, "
                              "80.50 % on 1000 test images")


def test_a_search_is_compared_on_the_images_that_it_was_scored_on():
    assert NETWORK.scored_as(test=False) == VALIDATION
    assert NETWORK.scored_as(test=True) == TEST
    alone = Baseline("a net", {}, {TEST: 80.5}, {TEST: 1000})
    assert alone.scored_as(test=False) == TEST


@pytest.mark.parametrize("change", [{"costs": {"flops": "many"}}, {"costs": None},
                                    {"costs": {"flops": float("nan")}}, {"top1": 80},
                                    {"n_images": {}}])
def test_another_file_is_refused_in_one_line(tmp_path, change):
    row = {"name": "a", "costs": {"flops": 1.0}, "top1": {TEST: 80.0}, "n_images": {TEST: 9}}
    write_json(tmp_path / "b.json", {"networks": [row]})
    assert read_baselines(tmp_path / "b.json")
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"networks": [row | change]}))
    with pytest.raises(UserError, match=r"other\.json: ") as error:
        read_baselines(path)
    assert "\n" not in str(error.value)
