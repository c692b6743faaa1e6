import json
import re

import pytest
from PIL import Image

from search_space import get_search_space
from tests.visualization.runs import SPACE
from utils.errors import UserError
from utils.files import write_json
from visualization.data import read_run
from visualization.drawing import Picture, columns_of, write_drawing
from visualization.shapes import graph_of
from visualization.sources import of_arch, of_network, of_search

CELL = {"arch": "|conv3~0|+|skip~0|conv1~1|+|none~0|conv3~1|pool~2|"}
CHAIN = {"links": "0012", "op1": "gat", "op2": "gcn", "op3": "skip", "op4": "cheb"}


def text_of(path):
    """The words of an SVG whose text is drawn as paths stand in its comments."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


def test_networks_are_aligned_by_stage(finished_run, tmp_path):
    run = read_run(finished_run)
    small, large = of_network(run, 0, "small"), of_network(run, 1, "large")
    assert columns_of([small, large]) == [("stem", 2), *((str(i), 4) for i in range(1, 6)),
                                          ("head", 3)]
    assert columns_of([small])[1] == ("1", 2)
    svg, png = write_drawing(tmp_path / "a.svg", [small, large])
    words = text_of(svg)
    assert {"192²", "256²", "kernel", "3×3", "7×7", "24, 48²", "24, 64²"} <= set(words)
    assert words.count("6") == 20  # the expansions of the large one; the small one has 3
    with Image.open(png) as picture:
        assert picture.size[0] == 1500


def test_equal_drawings_are_equal_files(finished_run, tmp_path):
    picture = of_network(read_run(finished_run), 3, "a")
    for name in ("a.svg", "b.png"):
        write_drawing(tmp_path / name, [picture])
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", ["mbv3", "proxyless", "resnet50", "timm:mobilenetv3_large_100"])
def test_every_space_with_layers_can_be_drawn(name, tmp_path):
    space = get_search_space(name)
    pictures = [of_arch(space, arch, "extreme") for arch in space.extremes()]
    small, large = (len(picture.blocks) for picture in pictures)
    assert 9 < small < large
    write_drawing(tmp_path / "a.svg", pictures)


def test_a_search_gives_the_networks_of_its_report(finished_run):
    titles = [picture.title for picture in of_search(finished_run, None, None)]
    assert "best: top-1 " in " ".join(titles).replace(" = ", ": ").replace("best near", "best")
    assert all("M FLOPs" in title for title in titles)
    assert of_search(finished_run, [4], None)[0].title.startswith("network 4: ")
    with pytest.raises(UserError, match="--pick 99"):
        of_search(finished_run, [99], None)


def test_a_cell_has_its_operations_on_the_edges(tmp_path):
    graph = graph_of(CELL)
    assert graph.nodes == ("input", "1", "2", "output")
    assert graph.edges == ((0, 1, "conv3"), (0, 2, "skip"), (1, 2, "conv1"), (1, 3, "conv3"),
                           (2, 3, "pool"))  # without the one that does nothing
    assert graph.bend(0, 1) == 0
    assert graph.bend(0, 2) * graph.bend(1, 3) < 0  # on different sides, so that none cross
    svg, _ = write_drawing(tmp_path / "a.svg", [Picture("cell", graph=graph)])
    assert {"conv3", "skip", "pool", "input", "output"} <= set(text_of(svg))


def test_a_graph_network_has_its_operations_in_the_nodes():
    graph = graph_of(CHAIN)
    assert graph.nodes == ("input", "gat", "gcn", "skip", "cheb", "output")
    assert set(graph.edges) == {(0, 1, ""), (0, 2, ""), (1, 3, ""), (2, 4, ""), (3, 5, ""),
                                (4, 5, "")}
    places = graph.positions()
    assert [x for x, _ in places] == [0, 1, 1, 2, 2, 3]
    assert len(set(places)) == len(places)


def test_what_is_no_graph_is_none():
    assert graph_of({"ks": [3], "e": [3], "d": [1], "r": 32}) is None
    assert graph_of({"arch": "resnet"}) is None


def test_layers_and_cells_are_not_mixed(tmp_path, finished_run):
    network = of_network(read_run(finished_run), 0, "a")
    with pytest.raises(UserError, match="apart"):
        write_drawing(tmp_path / "a.svg", [network, Picture("cell", graph=graph_of(CELL))])
    with pytest.raises(UserError, match="svg or a"):
        write_drawing(tmp_path / "a.pdf", [network])


def test_the_command_draws_files(run_command, tmp_path, finished_run, fails_clearly):
    arch = SPACE.extremes()[0]
    write_json(tmp_path / "net.subnet", arch)
    done = run_command("scripts/draw.py", tmp_path / "net.subnet", finished_run / "iter_2.stats",
                       "--save", tmp_path / "out" / "a.png")
    assert done.returncode == 0, done.stderr
    assert [line.rsplit("/", 1)[1] for line in done.stdout.split()] == ["a.svg", "a.png"]
    (tmp_path / "bad.subnet").write_text(json.dumps({**arch, "ks": [4]}))
    fails_clearly("scripts/draw.py", tmp_path / "bad.subnet", match="bad.subnet")
    fails_clearly("scripts/draw.py", finished_run, "--pick", "99", match="holds networks 0..44")
