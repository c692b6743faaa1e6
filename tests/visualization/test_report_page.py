"""The report in a browser: what a person does with it works."""

import shutil

import numpy as np
import pytest

from scripts import report as report_script
from search.baseline import TEST, VALIDATION, Baseline, write_baselines
from tests.visualization.runs import (
    ITERATIONS,
    N_DOE,
    N_ITER,
    make_cells_run,
    make_names_run,
    make_run,
    with_settings,
    write_rescore,
)
from utils.pareto import non_dominated
from visualization.data import picks, read_run
from visualization.report import page, payload, write_report

N = N_DOE + ITERATIONS * N_ITER
PHONE, DESK = {"width": 390, "height": 800}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def report(tmp_path_factory, finished_run):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, [finished_run])
    return path


@pytest.fixture
def open_page(browser):
    """Opens a report offline; the test fails where the page wrote an error."""
    pages, problems = [], []

    def open_(path, theme="light", viewport=None, place=""):
        context = browser.new_context(viewport=viewport or DESK, color_scheme=theme, offline=True)
        page = context.new_page()
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: problems.append(f"asked for {r.url[:80]}")
                if not r.url.startswith(("file:", "data:", "blob:")) else None)
        page.goto(f"file://{path}{place}")
        page.wait_for_selector("body[data-ready=yes]", timeout=60_000)
        pages.append(context)
        return page

    yield open_
    for context in pages:
        context.close()
    assert not problems


def scroll_through(page):
    """Brings every chart into view, so that it is drawn."""
    for chart in page.query_selector_all(".chart"):
        if chart.is_visible():
            chart.scroll_into_view_if_needed()
            page.wait_for_timeout(100)


def hover(page, place, index):
    """Moves the mouse to the place of a network, {"x", "y"} in pixels; returns the label's text."""
    page.mouse.move(place["x"], place["y"] - 1)
    page.mouse.move(place["x"], place["y"])
    answers = f"document.querySelector('.hoverlayer').textContent.includes('network {index},')"
    page.wait_for_function(answers, timeout=10_000)
    return page.text_content(".hoverlayer")


PLACES = """() => { const g = document.getElementById("front"), box = g.getBoundingClientRect(),
  l = g._fullLayout, t = g.data[1];
  return t.x.map((x, i) => ({x: box.x + l.xaxis._offset + l.xaxis.d2p(x),
                             y: box.y + l.yaxis._offset + l.yaxis.d2p(t.y[i])})); }"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_every_chart_is_drawn_and_nothing_is_wider_than_the_page(open_page, report, theme,
                                                                 viewport):
    page = open_page(report, theme, viewport)
    scroll_through(page)
    for name in ("front", "architecture", "hypervolume", "predicted", "tau", "calibration",
                 "choices", "genes", "phases"):
        assert page.query_selector(f"#{name} .main-svg"), f"{name} is not drawn"
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.get_attribute("html", "data-theme") == theme


def free_places(page, n):
    """Returns the place of each network of n that no other one lies near, by its number."""
    page.evaluate("document.getElementById('front').scrollIntoView({block: 'center'})")
    places = page.evaluate(PLACES)
    assert len(places) == n
    points = np.array([[place["x"], place["y"]] for place in places])
    return {i: place for i, place in enumerate(places)
            if (np.abs(points - points[i]).sum(axis=1) <= 8).sum() == 1}


def test_every_network_answers_the_mouse(open_page, report):
    page = open_page(report)
    places = free_places(page, N)
    assert len(places) > N / 2  # others lie on each other
    for index in places:
        text = hover(page, places[index], index)
        assert f"network {index}," in text
        assert "px: k" in text
        assert "FLOPs" in text


def test_networks_answer_the_mouse_and_the_keyboard_among_5000(open_page, finished_run, tmp_path):
    content, n, rng = payload([read_run(finished_run)]), 5000, np.random.default_rng(0)
    (run,) = content["runs"]
    places = np.arange(n) % N
    for columns in (run, run["figures"], run["drawings"]):
        columns |= {key: [value[i] for i in places] for key, value in columns.items()
                    if isinstance(value, list) and len(value) == N}
    values = np.array([[column[i] for i in places] for column in run["values"]])
    run["values"] = (values * rng.uniform(0.7, 1.3, values.shape)).round(4).tolist()
    run["front"] = np.flatnonzero(non_dominated(np.array(run["values"]).T)).tolist()
    (tmp_path / "r.html").write_text(page(content))
    assert (tmp_path / "r.html").stat().st_size < 5e6
    opened = open_page(tmp_path / "r.html")
    free = free_places(opened, n)
    assert len(free) > 100
    last = [*free][-15:]  # far beyond the first 255
    assert min(last) > 4000
    for index in last:
        assert "FLOPs" in hover(opened, free[index], index)
    opened.mouse.click(free[last[0]]["x"], free[last[0]]["y"])
    opened.wait_for_selector(f"text=Network {last[0]}")
    opened.click("#more")
    opened.focus("#table tbody button")
    opened.keyboard.press("End")
    assert opened.evaluate("document.activeElement.closest('tr').rowIndex") == n


def test_a_click_pins_a_network_and_draws_it(open_page, report):
    page = open_page(report)
    page.evaluate("document.getElementById('front').scrollIntoView({block: 'center'})")
    place = page.evaluate(PLACES)[1]  # the largest network, far from all others
    page.mouse.click(place["x"], place["y"])
    page.wait_for_selector("text=Network 1")
    assert page.evaluate("document.getElementById('architecture').data.length") >= 2
    assert "--pick 1 " in page.inner_text("#pinned pre")
    assert page.evaluate("location.hash") == "#run=0&network=1"


def test_a_link_to_a_network_opens_it(open_page, report):
    assert "Network 3" in open_page(report, place="#run=0&network=3").inner_text("#pinned")


def test_the_keyboard_walks_along_the_front(open_page, report):
    page = open_page(report)
    page.focus("#front")
    page.keyboard.press("Home")
    seen = [page.inner_text("#pinned h3")]
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        seen.append(page.inner_text("#pinned h3"))
    assert len(set(seen)) == 4
    assert all("on the front" in text for text in seen)


def test_the_keyboard_reaches_every_row_of_the_table(open_page, report):
    page = open_page(report)
    page.focus("#table tbody input")
    seen = []
    for _ in range(N):  # Tab goes to the number of the network, then to the next row
        seen.append(int(page.evaluate("document.activeElement.closest('tr').dataset.index")))
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
    assert sorted(seen) == list(range(N))
    page.focus("#table tbody button")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert page.inner_text("#pinned h3").startswith(f"Network {seen[1]}")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    assert "1 ticked" in page.inner_text("#count")
    assert page.get_attribute("#table tbody tr.pinned", "data-index") == str(seen[1])


def test_filters_sort_and_ticks(open_page, report):
    page = open_page(report)
    rows = "#table tbody tr"
    assert len(page.query_selector_all(rows)) == N
    page.fill("input[aria-label='filter FLOPs (millions)']", "<=250")
    few = page.query_selector_all(rows)
    assert 0 < len(few) < N
    assert page.inner_text("#count").startswith(f"{len(few)} of {N}")
    page.fill("input[aria-label='filter iteration']", "1..2")
    assert all(row.query_selector("td:nth-child(3)").inner_text() in "12"
               for row in page.query_selector_all(rows))
    page.fill("input[aria-label='filter FLOPs (millions)']", "")
    assert len(page.query_selector_all(rows)) == 2 * N_ITER
    page.click("#table button:has-text('top-1 error')")  # from ascending to descending
    errors = [float(row.query_selector("td:nth-child(4)").inner_text())
              for row in page.query_selector_all(rows)]
    assert errors == sorted(errors, reverse=True)
    page.click("#tick-all")
    page.click("#copy-command")
    numbers = ",".join(str(i) for i in range(N_DOE, N_DOE + 2 * N_ITER))
    assert f"--pick {numbers} " in page.inner_text("#copied")
    page.click("#copy-csv")
    lines = page.inner_text("#copied").splitlines()
    assert len(lines) == 1 + 2 * N_ITER
    assert lines[0].startswith("network,iteration,top-1 error (%),FLOPs (millions),resolution")


def test_sliders_choose_whose_choices_are_counted(open_page, report):
    page = open_page(report)
    page.locator("#choices").scroll_into_view_if_needed()
    before = page.inner_text("#choices-note")
    page.fill("#share", "50")
    assert "23 most accurate" in page.inner_text("#choices-note")
    page.fill("#limit", "20")
    after = page.inner_text("#choices-note")
    assert after != before
    assert "of 9 networks" in after
    widths = page.evaluate("document.getElementById('choices').data.map(t => t.x[0])")
    assert sum(widths) == pytest.approx(100)


def test_colour_and_size_follow_the_chosen_figures(open_page, report):
    page = open_page(report)
    page.select_option("#colour", "resolution")
    page.select_option("#size", "flops")
    marker = page.evaluate("document.getElementById('front').data[1].marker")
    assert set(marker["color"]) <= set(range(192, 257, 4))
    assert len(set(marker["size"])) > 10


def test_axes_can_be_logarithmic(open_page, report):
    page = open_page(report)
    page.check("#log-x")
    axes = page.evaluate("['xaxis', 'yaxis'].map(a => document.getElementById('front')"
                         "._fullLayout[a]).map(a => [a.type, a.range])")
    assert [kind for kind, _ in axes] == ["log", "linear"]
    flops = page.evaluate("document.getElementById('front').data[1].x")
    low, high = axes[0][1]
    assert 0.7 * min(flops) < 10**low < min(flops) <= max(flops) < 10**high < 1.5 * max(flops)
    index, place = next(iter(free_places(page, N).items()))
    assert "FLOPs" in hover(page, place, index)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_three_objectives_and_cells(open_page, tmp_path, theme):
    write_report(tmp_path / "r.html", [make_cells_run(tmp_path / "cells")])
    page = open_page(tmp_path / "r.html", theme)
    scroll_through(page)
    traces = page.evaluate("document.getElementById('pairs').data.map(t => [t.xaxis, t.x.length])")
    assert [axis for axis, _ in traces] == ["x", "x", "x2", "x2", "x3", "x3"]
    assert sum(n for _, n in traces) == 3 * 40
    parallel = page.evaluate("document.getElementById('parallel').data[0].dimensions"
                             ".map(d => [d.label, d.values.length])")
    assert parallel == [["top-1 error (%)", 40], ["FLOPs (millions)", 40],
                        ["parameters (millions)", 40]]
    assert page.query_selector("#parallel canvas")
    page.select_option("#x-axis", "2")
    assert page.evaluate("document.getElementById('front').layout.xaxis.title.text") == \
        "parameters (millions)"
    labels = page.evaluate("document.getElementById('architecture').layout.annotations"
                           ".filter(a => a.text).map(a => [a.text, a.font.color || '', a.bgcolor])")
    assert {"input", "1", "2", "output"} <= {text for text, _, _ in labels}
    ink = page.evaluate("document.getElementById('architecture')._fullLayout.font.color")
    paper = {"light": "#ffffff", "dark": "#14171c"}[theme]
    assert contrast(ink, paper) > 7
    assert all(contrast(ink, shade) > 7 for _, _, shade in labels)


def contrast(first, second):
    """Returns the contrast ratio of two `#rrggbb` colours, 1..21 (WCAG 2)."""
    def luminance(colour):
        parts = np.array([int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]
    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


def test_accuracies_on_unseen_images_stand_beside_the_searchs(open_page, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "a run")
    write_rescore(run, [4, 2, 7], np.arange(100) < np.array([[90], [91], [60]]))
    write_report(tmp_path / "r.html", [run])
    page = open_page(tmp_path / "r.html")
    scroll_through(page)
    text = page.inner_text("#unseen table")
    assert "+1.00 points" in text
    assert text.count("cannot be told apart") == 1
    assert text.count(": told apart") == 1
    assert page.evaluate("document.getElementById('unseen-0').data[1].y") == [90, 91, 60]
    assert page.evaluate("document.getElementById('unseen-0').data[1].error_y.array.length") == 3
    page.click("#unseen tbody tr:nth-child(2) button")
    assert "top-1 on unseen images (%)\n91" in page.inner_text("#pinned")


def test_the_accuracy_of_each_class_is_there_the_worst_first(open_page, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "a run")
    hits = np.arange(100) < np.array([[90], [91], [60]])
    write_rescore(run, [4, 2, 7], hits, labels=np.arange(100) // 25,
                  classes=["a", "b", "<c>", "d", "e"])
    write_report(tmp_path / "r.html", [run])
    page = open_page(tmp_path / "r.html", viewport=PHONE)
    scroll_through(page)
    rows = [row.inner_text().split() for row in page.query_selector_all(".classes tbody tr")]
    assert rows == [["d", "60.0", "64.0", "0.0"], ["<c>", "100.0", "100.0", "40.0"],
                    ["a", *3 * ["100.0"]], ["b", *3 * ["100.0"]], ["e", *3 * ["–"]]]
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.locator("#picks .figure").all_inner_texts()[-1].startswith("91.00 %")
    assert "Chosen by the accuracy on unseen images" in page.inner_text("#picks-note")


def test_what_a_model_expects_stands_next_to_what_was_measured(open_page, finished_run, tmp_path):
    run = with_settings(shutil.copytree(finished_run, tmp_path / "a run"), evaluator="ofa",
                        strategy="ehvi")
    write_report(tmp_path / "r.html", [run])
    page = open_page(tmp_path / "r.html")
    scroll_through(page)
    found = read_run(run)
    names = page.evaluate("document.getElementById('front').data.map((trace) => trace.name)")
    drawn = names.index("front, as expected (95 %)")
    bars = page.evaluate(f"document.getElementById('front').data[{drawn}].error_y.array")
    assert bars == pytest.approx(1.96 * found.expected[found.front, 1], abs=1e-4)
    best = picks(found)[2].index
    card = page.locator("#picks .card").last.inner_text()
    assert f"{100 - found.F[best, 0]:.2f} % top-1" in card  # as measured
    assert f"expected {100 - found.expected[best, 0]:.2f} %, 95 % interval" in card
    assert "a Gaussian process expects" in page.inner_text("#picks-note")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_baseline_has_points_of_its_own(open_page, finished_run, tmp_path, theme):
    run = shutil.copytree(finished_run, tmp_path / "a run")
    write_rescore(run, [4, 2], np.arange(100) < np.array([[90], [80]]))
    costs = np.array([record.sec_obj for record in read_run(run).stats.archive])
    networks = [Baseline("a <b> net", {"flops": float(costs.max() * factor)},
                         {VALIDATION: 82.5, TEST: 81.0}, {VALIDATION: 100, TEST: 600})
                for factor in (0.5, 3)]
    write_baselines(tmp_path / "baseline.json", networks)
    args = report_script.get_args_parser().parse_args([
        str(run), "--save", str(tmp_path / "r.html"), "--baseline",
        str(tmp_path / "baseline.json")])
    report_script.main(args)
    page = open_page(tmp_path / "r.html", theme=theme)
    scroll_through(page)
    drawn = page.evaluate("document.getElementById('front').data.filter((t) => t.name === "
                          "'baseline').map((t) => [t.x, t.y, t.marker.color])")
    (x, y, colour), = drawn
    assert x == [network.costs["flops"] for network in networks] and y == [17.5, 17.5]
    assert colour == page.evaluate("getComputedStyle(document.body).getPropertyValue('--mark')")\
        .strip()
    low, high = page.evaluate("document.getElementById('front').layout.xaxis.range")
    assert low < costs.min() and high > networks[1].costs["flops"], "all of them are in the picture"
    assert [line.inner_text() for line in page.locator("#baselines li").all()] == [
        f"baseline: {network.line()}" for network in networks]
    assert page.evaluate("document.getElementById('unseen-0').data[2].y") == [81, 81]


@pytest.mark.parametrize("log", [False, True])
def test_the_constraint_is_drawn_and_named(open_page, finished_run, tmp_path, log):
    run = with_settings(shutil.copytree(finished_run, tmp_path / "a run"),
                        constraint="flops<=800,top1>=80,params<=7")
    write_report(tmp_path / "r.html", [run])
    page = open_page(tmp_path / "r.html")
    assert page.inner_text("#about pre").startswith("python msunas.py --save ")
    if log:
        page.check("#log-x")
    assert "within flops<=800,top1>=80,params<=7" in page.inner_text("#summary")
    lines = page.evaluate("document.getElementById('front').layout.shapes"
                          ".map(s => [s.label.text, s.x0, s.x1, s.y0, s.y1])")
    assert lines == [["flops&lt;=800", 800, 800, 0, 1], ["top1&gt;=80", 0, 1, 20, 20]]
    place = "(() => { const l = document.getElementById('front')._fullLayout, b = document" \
        ".querySelector('#front .shapelayer path').getBBox(); return [b.x, l.xaxis._offset + " \
        "l.xaxis.d2p(800)]; })()"
    drawn, expected = page.evaluate(place)
    assert drawn == pytest.approx(expected, abs=1)
    texts = page.locator("#front .shapelayer text").all_text_contents()
    assert texts == ["flops<=800", "top1>=80"]


@pytest.mark.parametrize(("touch", "bars"), [(True, False), (False, True)])
def test_no_bar_covers_titles_where_nothing_hovers(browser, report, touch, bars):
    context = browser.new_context(viewport=PHONE, has_touch=touch, is_mobile=touch)
    page = context.new_page()
    page.goto(f"file://{report}")
    page.wait_for_selector("body[data-ready=yes]", timeout=60_000)
    assert bool(page.query_selector("#front .modebar")) == bars
    context.close()


def test_names_of_a_run_break_nothing(open_page, tmp_path):
    write_report(tmp_path / "r.html", [make_names_run(tmp_path / "names")])
    page = open_page(tmp_path / "r.html")
    scroll_through(page)
    heads = page.locator("#table thead button").all_inner_texts()
    assert heads == ["network", "iteration", "top-1 error (%) ↑", "error",
                     "iteration (objective)", "constructor", "__proto__", "top1_err",
                     "loss (gene)", "arch", "architecture"]
    page.select_option("#colour", "iteration (objective)")
    marker = page.evaluate("document.getElementById('front').data[1].marker.color")
    assert marker == [30 - i for i in range(12)]
    page.fill("#table thead th:nth-child(6) input", "1..2")  # the objective called iteration
    page.fill("#table thead th:nth-child(6) input", ">=20")
    assert page.inner_text("#count").startswith("11 of 12")
    page.fill("#table thead th:nth-child(7) input", "2")  # constructor
    assert page.inner_text("#count").startswith("3 of 12")
    page.click("#tick-all")
    page.click("#copy-csv")
    lines = page.inner_text("#copied").splitlines()
    assert len(lines) == 4
    assert all(",'=1+1," in line for line in lines[1:])


def test_the_theme_can_be_switched(open_page, report):
    page = open_page(report, "dark")
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") == "light"


def test_runs_that_differ_in_their_seeds_are_one_line_with_a_band(open_page, tmp_path):
    runs = [make_run(tmp_path / f"{strategy}-{seed}", seed=seed)
            for strategy in ("ehvi", "random") for seed in range(3)]
    for run in runs:
        with_settings(run, strategy=run.name.split("-")[0])
    contents = payload([read_run(run) for run in runs])["runs"]
    write_report(tmp_path / "all.html", runs)
    page = open_page(tmp_path / "all.html")
    scroll_through(page)
    lines = page.evaluate("document.getElementById('compare-hv').data.map((t) => [t.name, t.fill])")
    assert lines[:2] == [[None, "toself"]] * 2 and [name for name, _ in lines[2:]] == [
        "ehvi", "random"]
    mean = page.evaluate("document.getElementById('compare-hv').data[2].y")
    np.testing.assert_allclose(mean, np.mean([run["hv"]["value"] for run in contents[:3]], axis=0))
    final = np.array([run["hv"]["value"][-1] for run in contents[:3]])
    cells = page.text_content("#compare-groups tbody tr")
    assert f"{final.mean():.4f} ± {final.std(ddof=1) / np.sqrt(3):.4f}" in cells
    low, _ = page.evaluate("document.getElementById('compare-hv').layout.yaxis.range")
    assert mean[0] < low < mean[N_DOE], "the axis begins where the curves are"
    with_settings(runs[0], n_iter=3)
    assert len({run["group"] for run in payload([read_run(run) for run in runs])["runs"]}) == 6


def test_several_runs_are_compared(open_page, finished_run, tmp_path):
    other = make_run(tmp_path / "run <b>", seed=1)
    write_report(tmp_path / "r.html", [finished_run, other])
    page = open_page(tmp_path / "r.html")
    assert page.evaluate("document.getElementById('compare-front').data.length") == 2
    assert page.evaluate("document.getElementById('compare-hv').data.length") == 2
    assert len(page.query_selector_all("#compare-table tbody tr")) == 2
    page.select_option("#run", "1")
    assert page.evaluate("location.hash") in ("", "#run=0&network=0")
    assert "run <b>" in page.inner_text("#compare-table")
    scroll_through(page)


def test_it_prints(open_page, report, tmp_path):
    page = open_page(report, "dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.get_attribute("html", "data-theme") == "light"
    assert page.query_selector("#genes .main-svg")
    page.emulate_media(media="print")
    for part in ("thead", "tbody"):  # the heads of the columns, the numbers of the networks
        assert page.locator(f"#table {part} td:nth-child(2) button, #table {part} th button"
                            ).first.is_visible()
    front, caption = (page.locator(part).bounding_box() for part in (
        "#front .main-svg >> nth=0", "#front + figcaption"))
    assert front["y"] + front["height"] <= caption["y"] + 1
    assert not page.locator("#theme").is_visible()
    widths = page.evaluate("[...document.querySelectorAll('.main-svg, table')].map("
                           "e => e.getBoundingClientRect().width)")
    assert 500 < max(widths) <= 720  # the width of A4
    page.emulate_media(media="screen")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.get_attribute("html", "data-theme") == "dark"
    page.pdf(path=str(tmp_path / "report.pdf"))
    assert (tmp_path / "report.pdf").stat().st_size > 10_000
