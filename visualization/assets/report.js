"use strict";

// ------------------------------------------------------------------------------------ small tools
const $ = (id) => document.getElementById(id);
const DATA = JSON.parse($("data").textContent);
const UNUSED = ".";
const TABLE_ROWS = 100;
// Okabe and Ito (2008): told apart by people with any colour vision; shapes and dashes differ too.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
// Parts of "cividis" (Nunez et al. 2018); the end stands out from the page in both themes.
const SCALES = {
  light: [[0, "#cbb968"], [0.35, "#948e77"], [0.7, "#575d6d"], [1, "#00224e"]],
  dark: [[0, "#4c556c"], [0.35, "#7c7b78"], [0.7, "#bbae6e"], [1, "#fee838"]],
};
const KERNELS = { 1: "#8a94a0", 3: "#56B4E9", 5: "#E69F00", 7: "#009E73" };

// Keys of the page's own columns: no objective and no gene is called so.
const ITERATION = " iteration", ERROR = " error", NUMBER = " number", ARCH = " arch";

const state = { run: 0, pinned: 0, theme: "light", x: 1, y: 0, colour: ITERATION, size: "",
  sort: { key: ERROR, up: true }, filters: new Map(), ticked: new Set(), shown: TABLE_ROWS };
const run = () => DATA.runs[state.run];

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.className = value;
    else if (value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const range = (n) => Array.from({ length: n }, (_, i) => i);
const size = () => run().arch.length;
const onFront = () => new Set(run().front);

/** The least and the greatest of any number of values, null left out. */
function ends(values) {
  let low = Infinity, high = -Infinity;
  for (const v of values) if (v !== null) { if (v < low) low = v; if (v > high) high = v; }
  return [low, high];
}

function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  return String(Number(value.toPrecision(Math.abs(value) >= 1000 ? 6 : 4)));
}

function axisValue(index, axis) {
  return `${number(run().values[axis][index])}${run().axes[axis].unit ? " " + unit(axis) : ""}`;
}

function unit(axis) {
  const text = run().axes[axis].unit;
  return text === "millions" ? "M" : text;
}

const top1 = (index) => 100 - run().values[0][index];

/** The columns of a run by key: what can be a colour, a size, or a column of the table. */
function columns() {
  const r = run();
  const list = [{ key: ITERATION, label: "iteration", values: r.iteration }];
  r.axes.forEach((axis, i) => list.push({
    key: i ? axis.key : ERROR, label: axis.label === "iteration" ? "iteration (objective)" : axis.label, values: r.values[i], axis: i }));
  for (const [key, values] of Object.entries(r.figures)) {
    if (!list.some((column) => column.key === key)) list.push({ key, label: figureLabel(key), values });
  }
  return list;
}

function figureLabel(key) {
  const labels = { params: "parameters (millions)", flops: "FLOPs (millions)", top5: "top-5 accuracy (%)",
    loss: "validation loss", resolution: "resolution (px)", unseen_top1: "top-1 on unseen images (%)" };
  return Object.hasOwn(labels, key) ? labels[key] : key;
}

const numeric = (column) => column.values.every((v) => v === null || typeof v === "number");

// ----------------------------------------------------------------------------------------- charts
function layout(extra = {}) {
  const ink = css("--ink"), line = css("--line");
  const axis = { gridcolor: line, zeroline: false, linecolor: line, ticks: "outside", ticklen: 4,
    tickcolor: line, automargin: true };
  const { xaxis, yaxis, ...rest } = extra;
  const titled = (a) => ({ ...axis, ...a, title: { text: a && a.title, standoff: 8 } });
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: 12.5, family: getComputedStyle(document.body).fontFamily },
    margin: { l: 56, r: 12, t: 34, b: 48 }, hovermode: "closest", showlegend: false,
    hoverlabel: { bgcolor: css("--panel"), bordercolor: line, font: { color: ink, size: 12 }, align: "left" },
    xaxis: titled(xaxis || {}), yaxis: titled(yaxis || {}), ...rest,
    title: { text: rest.title || "", x: 0, xref: "paper", xanchor: "left", font: { size: 13.5 }, y: 1, yanchor: "top", pad: { t: 8 } } };
}

// Where nothing hovers, the bar would stay, over titles and legends.
const CONFIG = { displaylogo: false, responsive: true, displayModeBar: matchMedia("(hover: none)").matches ? false : "hover",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

function draw(id, traces, extra) {
  // Plotly measures a box once; the box of a chart that is drawn again can have another height.
  return Plotly.react($(id), traces, { ...layout(extra), height: $(id).clientHeight || undefined }, CONFIG);
}

function hoverText(r, index) {
  const lines = [`<b>network ${index}</b>, ${r.iteration[index] ? "iteration " + r.iteration[index] : "initial sample"}`,
    `top-1 ${number(100 - r.values[0][index])} % (error ${number(r.values[0][index])} %)`];
  r.axes.slice(1).forEach((axis, i) => lines.push(`${plain(axis.name)} ${number(r.values[i + 1][index])} ${plain(axis.unit)}`));
  lines.push(...expectation(r, index));
  for (const [key, values] of Object.entries(r.figures)) {
    if (!r.axes.some((axis) => axis.key === key) && values[index] !== null) lines.push(`${plain(figureLabel(key))} ${plain(number(values[index]))}`);
  }
  return lines.concat(wrapped(r.arch[index])).join("<br>");
}

function wrapped(text, width = 58) {
  const lines = [""];
  for (const word of plain(text).split(" ")) {
    if (lines[lines.length - 1].length + word.length > width) lines.push("");
    lines[lines.length - 1] += (lines[lines.length - 1] ? " " : "") + word;
  }
  return lines;
}

function scaled(values, low, high) {
  const [least, most] = ends(values), span = most - least || 1;
  return values.map((v) => low + (high - low) * Math.sqrt(((v === null ? least : v) - least) / span));
}

/** The values by which the front is chosen: the error that a model expects where there is one. */
const judged = (r, axis) => (axis === 0 && r.expected ? r.expected[0] : r.values[axis]);

/** The front as the model expects it, with 95 % intervals; nothing where the measured error counts. */
function expectedFront(r) {
  if (!r.expected || (state.x && state.y)) return [];
  const bar = { type: "data", array: r.front.map((i) => 1.96 * r.expected[1][i]), thickness: 1, width: 0, color: css("--accent") };
  return [{ type: "scatter", mode: "markers", name: "front, as expected (95 %)", showlegend: true, hoverinfo: "skip",
    x: r.front.map((i) => judged(r, state.x)[i]), y: r.front.map((i) => judged(r, state.y)[i]),
    [state.y ? "error_x" : "error_y"]: bar, marker: { symbol: "line-ew-open", size: 7, color: css("--accent") } }];
}

/** "expected 79.10 %, 95 % interval 78.90 to 79.30", in a list; empty where no model is trusted. */
function expectation(r, index) {
  if (!r.expected) return [];
  const top1 = 100 - r.expected[0][index], reach = 1.96 * r.expected[1][index];
  return [`expected ${percent(top1)}, 95 % interval ${interval({ low: top1 - reach, high: top1 + reach })}`];
}

/** The border of what a front dominates, as steps; null where an objective is maximised. */
function steps(r, x, y) {
  const sign = (axis) => (r.axes[axis].max ? -1 : 1);
  const points = range(r.arch.length).map((i) => [sign(x) * judged(r, x)[i], sign(y) * judged(r, y)[i]])
    .sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const path = [];
  let least = Infinity;
  for (const [a, b] of points) if (b < least) { path.push([a, b]); least = b; }
  const xs = path.map((p) => sign(x) * p[0]), ys = path.map((p) => sign(y) * p[1]);
  return { x: xs, y: ys };
}

/** Networks that no search chose, where both values of them are known: axes, or "unseen". */
function baselines(r, x, y) {
  const value = (network, key) => (key === "unseen" ? network.unseen : network.values[key]) ?? null;
  const known = r.baselines.filter((network) => ![value(network, x), value(network, y)].includes(null));
  return known.length ? [{ type: "scatter", mode: "markers", name: "baseline", showlegend: true,
    x: known.map((network) => value(network, x)), y: known.map((network) => value(network, y)),
    text: known.map((network) => wrapped(network.line).join("<br>")), hovertemplate: "%{text}<extra></extra>",
    marker: { symbol: "x", size: 10, color: css("--mark") } }] : [];
}

function drawFront() {
  const r = run(), n = size(), front = onFront();
  const all = columns(), colour = all.find((c) => c.key === state.colour) || all[0];
  const sized = all.find((c) => c.key === state.size);
  const base = n > 1500 ? 5 : 8;
  const sizes = sized ? scaled(sized.values, 4, 18) : range(n).map((i) => (front.has(i) ? base + 2 : base));
  const ink = css("--ink");
  const points = { type: "scatter", mode: "markers", showlegend: false, x: r.values[state.x], y: r.values[state.y],
    text: range(n).map((i) => hoverText(r, i)), hovertemplate: "%{text}<extra></extra>",
    marker: { size: sizes, color: colour.values, colorscale: SCALES[state.theme], opacity: 0.9,
      showscale: new Set(colour.values).size > 1,
      line: { color: ink, width: range(n).map((i) => (front.has(i) ? 1.4 : 0)) },
      colorbar: { title: { text: plain(colour.label), side: "right", font: { size: 12 } }, thickness: 10,
        outlinewidth: 0, ...wholeTicks(colour.values) } } };
  const border = { type: "scatter", mode: "lines", ...steps(r, state.x, state.y),
    showlegend: false, hoverinfo: "skip",
    line: { shape: r.axes[state.x].max ? "vh" : "hv", color: css("--accent"), width: 1.4 } };
  const pinned = { type: "scatter", mode: "markers", name: "in view", showlegend: true, x: [r.values[state.x][state.pinned]],
    y: [r.values[state.y][state.pinned]], hoverinfo: "skip",
    marker: { symbol: "circle-open", size: 24, color: css("--mark"), line: { width: 2.5 } } };
  const picks = r.picks.map((pick, k) => ({ type: "scatter", mode: "markers", name: plain(pick.names.join(" = ")), showlegend: true,
    x: [r.values[state.x][pick.index]], y: [r.values[state.y][pick.index]], hoverinfo: "skip",
    marker: { symbol: ["diamond-open", "square-open", "triangle-up-open"][k % 3], size: 15 + 3 * k, color: css("--mark"), line: { width: 2 } } }));
  const compared = baselines(r, state.x, state.y), others = (axis, key) => compared.flatMap((trace) => trace[key]).concat(withBounds(r, axis));
  draw("front", [border, points, ...expectedFront(r), ...compared, ...picks, pinned], { margin: { l: 56, r: 8, t: 30, b: 48 }, showlegend: true,
    legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", itemclick: false, itemdoubleclick: false },
    xaxis: { title: plain(r.axes[state.x].label), ...scaleOf(others(state.x, "x"), "log-x") },
    yaxis: { title: plain(r.axes[state.y].label), ...scaleOf(others(state.y, "y"), "log-y") },
    shapes: r.bounds.filter((b) => [state.x, state.y].includes(b.axis)).map((b) => boundLine(b, b.axis === state.x)),
    uirevision: [state.run, state.x, state.y, $("log-x").checked, $("log-y").checked].join("/") });
}

/** The values of an axis and the limits of the constraint that lie near them. */
function withBounds(r, axis) {
  const [low, high] = ends(r.values[axis]), room = (high - low) / 2;
  return r.values[axis].concat(r.bounds.filter((b) => b.axis === axis && b.value > low - room && b.value < high + room).map((b) => b.value));
}

/** A limit of the constraint as a line with its text. */
function boundLine(bound, upright) {
  const along = upright ? { xref: "x", yref: "paper", x0: bound.value, x1: bound.value, y0: 0, y1: 1 }
    : { xref: "paper", yref: "y", x0: 0, x1: 1, y0: bound.value, y1: bound.value };
  return { type: "line", layer: "below", ...along, line: { color: css("--mark"), width: 1.4, dash: "dash" },
    label: { text: plain(bound.text), ...(upright ? { textposition: "end", xanchor: "right" } : { textposition: "middle" }), font: { size: 12, color: css("--mark") } } };
}

/** Moves the ring to the network in view: the points themselves stay as they are. */
function moveRing() {
  const r = run();
  Plotly.restyle($("front"), { x: [[r.values[state.x][state.pinned]]], y: [[r.values[state.y][state.pinned]]] },
    [$("front").data.length - 1]);
}

/** Ticks of a scale of whole numbers: at whole numbers alone. */
function wholeTicks(values) {
  if (!values.every(Number.isInteger)) return {};
  const [low, high] = ends(values);
  return { tickformat: "d", dtick: Math.max(1, Math.ceil((high - low) / 7)) };
}

/** Type and range of an axis; zero has no logarithm, so values of 0 and less stay outside. */
function scaleOf(values, box) {
  const positive = values.filter((v) => v > 0);
  if (!$(box).checked || !positive.length) return { type: "linear", range: padded(values) };
  return { type: "log", range: padded(positive.map(Math.log10)) };
}

function padded(values) {
  const [low, high] = ends(values), room = 0.05 * (high - low || 1);
  return [low - room, high + room];
}

function drawMany() {
  const r = run(), m = r.axes.length;
  const front = onFront(), pairs = [];
  for (let i = 0; i < m; i++) for (let j = i + 1; j < m; j++) pairs.push([j, i]);
  const shown = pairs.slice(0, 9), inRow = Math.min($("pairs").clientWidth < 600 ? 1 : 3, shown.length);
  const inColumn = Math.ceil(shown.length / inRow), gap = 0.08, width = (1 - gap * (inRow - 1)) / inRow;
  const low = 0.28 / inColumn, height = (1 - low * (inColumn - 1)) / inColumn;
  $("pairs").style.height = `${60 + 270 * inColumn}px`;
  const extra = { margin: { l: 60, r: 12, t: 16, b: 48 } };
  const traces = shown.flatMap(([x, y], k) => {
    const at = k ? String(k + 1) : "";
    const base = layout({ xaxis: { title: plain(r.axes[x].label) }, yaxis: { title: plain(r.axes[y].label) } });
    extra[`xaxis${at}`] = { ...base.xaxis, title: k ? base.xaxis.title : plain(r.axes[x].label),
      domain: spread(k % inRow, width, gap), anchor: `y${at}` };
    extra[`yaxis${at}`] = { ...base.yaxis, title: k ? base.yaxis.title : plain(r.axes[y].label), anchor: `x${at}`,
      domain: spread(inColumn - 1 - Math.floor(k / inRow), height, low) };
    return [false, true].map((wanted) => {
      const index = range(size()).filter((i) => front.has(i) === wanted);
      return { type: "scatter", mode: "markers", xaxis: `x${at}`, yaxis: `y${at}`,
        x: index.map((i) => r.values[x][i]), y: index.map((i) => r.values[y][i]), customdata: index,
        text: index.map((i) => hoverText(r, i)), hovertemplate: "%{text}<extra></extra>",
        marker: { size: wanted ? 7 : 5, opacity: wanted ? 0.95 : 0.45, color: wanted ? css("--accent") : css("--quiet") } };
    });
  });
  draw("pairs", traces, extra);
  const order = range(size()).sort((a, b) => front.has(a) - front.has(b));
  const room = (axis) => 24 + 3.6 * r.axes[axis].label.length; // half of the label
  draw("parallel", [{ type: "parcoords", labelfont: { size: 13 }, tickfont: { color: css("--ink") }, rangefont: { color: "rgba(0,0,0,0)" },
    line: { color: order.map((i) => (front.has(i) ? 1 : 0)), cmin: 0, cmax: 1,
      colorscale: [[0, state.theme === "dark" ? "#3d444e" : "#d3d8de"], [1, css("--accent")]] },
    unselected: { line: { opacity: 0.05 } },
    dimensions: r.axes.map((axis, i) => ({ label: plain(axis.label), values: order.map((k) => r.values[i][k]) })) }],
  { margin: { l: room(0), r: room(m - 1), t: 60, b: 24 } });
}

const spread = (place, length, gap) => [place * (length + gap), place * (length + gap) + length].map((v) => Math.min(1, Math.max(0, v)));

/** The runs by group, searches that differ in their seeds alone: [[name, runs], ...]. */
function groupsOf(runs) {
  const found = new Map();
  for (const r of runs) found.set(r.group, [...(found.get(r.group) || []), r]);
  return [...found];
}

/** Mean and standard error of values; no error of a single one. */
function meanAndError(values) {
  const n = values.length, mean = values.reduce((sum, v) => sum + v, 0) / n;
  return [mean, n < 2 ? 0 : Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (n - 1) / n)];
}

function withError(values, digits) {
  const [mean, error] = meanAndError(values);
  return mean.toFixed(digits) + (values.length > 1 ? ` ± ${error.toFixed(digits)}` : "");
}

const last = (values) => values[values.length - 1];

/** Mean and standard error of the hypervolume of runs, as far as the shortest of them. */
function meanCurve(runs) {
  const total = Math.min(...runs.map((r) => last(r.hv.n))), n = runs[0].hv.n.filter((v) => v <= total);
  const rows = runs.map((r) => { let i = 0; return n.map((v) => { while (r.hv.n[i + 1] <= v) i++; return r.hv.value[i]; }); });
  const points = n.map((_, i) => meanAndError(rows.map((row) => row[i])));
  return { n, mean: points.map((p) => p[0]), low: points.map((p) => p[0] - p[1]), high: points.map((p) => p[0] + p[1]) };
}

function hvTrace(name, n, value, k, alone) {
  return { type: "scatter", mode: "lines", name: plain(name), x: n, y: value,
    line: { color: alone ? css("--accent") : COLOURS[k % 6], dash: alone ? "solid" : DASHES[k % 6], width: 2, shape: "hv" },
    hovertemplate: `${alone ? "" : plain(name) + ": "}%{x} evaluated, hypervolume %{y:.4f}<extra></extra>` };
}

function drawHypervolume() {
  const r = run();
  const marks = r.history.filter((h) => h.number > 0);
  draw("hypervolume", [hvTrace(r.name, r.hv.n, r.hv.value, 0, true)], {
    title: "Hypervolume after each evaluation",
    xaxis: { title: "evaluated networks", rangemode: "tozero" }, yaxis: { title: "normalised hypervolume" },
    shapes: r.n_initial ? [{ type: "rect", xref: "x", yref: "paper", x0: 0, x1: r.n_initial, y0: 0, y1: 1,
      fillcolor: css("--quiet"), opacity: 0.12, line: { width: 0 }, layer: "below" }] : [],
    annotations: r.n_initial ? [{ x: r.n_initial, y: 0, xref: "x", yref: "paper", showarrow: false,
      text: marks.length ? "initial sample " : `initial sample of ${r.n_initial} `, xanchor: "right", yanchor: "bottom", font: { color: css("--quiet"), size: 12 } }] : [] });
}

const fittedIterations = () => run().history.filter((h) => h.tau !== null && h.tau !== undefined);

function drawSurrogate() {
  const fitted = fittedIterations();
  const recorded = fitted.filter((h) => h.predicted.length === h.measured.length && h.measured.length);
  const notes = [];
  const points = recorded.flatMap((h) => h.measured.map((m, i) => [m, h.predicted[i], h.number, (h.std || [])[i]]));
  $("predicted").parentElement.hidden = !points.length;
  if (points.length) {
    const diagonal = ends(points.flatMap((p) => [p[0], p[1]]));
    draw("predicted", [
      { type: "scatter", mode: "lines", x: diagonal, y: diagonal, line: { color: css("--quiet"), width: 1, dash: "dot" }, hoverinfo: "skip" },
      { type: "scatter", mode: "markers", x: points.map((p) => p[0]), y: points.map((p) => p[1]),
        marker: { color: points.map((p) => p[2]), colorscale: SCALES[state.theme], size: 7, opacity: 0.9,
          colorbar: { title: { text: "iteration", side: "right" }, thickness: 10, outlinewidth: 0, ...wholeTicks(points.map((p) => p[2])) } },
        hovertemplate: "measured %{x:.3f} %, predicted %{y:.3f} %, iteration %{marker.color}<extra></extra>" }],
    { title: "Error predicted before evaluation", xaxis: { title: "measured top-1 error (%)" }, yaxis: { title: "predicted top-1 error (%)" } });
  } else notes.push("This run did not record what was predicted before each evaluation.");
  const winners = [...new Set(fitted.map((h) => h.winner || h.name || ""))];
  draw("tau", winners.map((winner, k) => {
    const own = fitted.filter((h) => (h.winner || h.name || "") === winner);
    return { type: "scatter", mode: winners.length > 1 ? "markers" : "lines+markers", name: plain(winner), x: own.map((h) => h.number), y: own.map((h) => h.tau),
      marker: { color: COLOURS[k % 6], symbol: SYMBOLS[k % 6], size: 8 }, line: { color: COLOURS[k % 6], width: 1.2 },
      hovertemplate: `iteration %{x}: tau %{y:.3f}, ${plain(winner)}<extra></extra>` };
  }), { title: "Rank correlation with the measured error", showlegend: winners.length > 1,
    legend: { orientation: "h", y: 0.02, yanchor: "bottom", x: 0.98, xanchor: "right" },
    xaxis: { title: "iteration", tickformat: "d" }, yaxis: { title: "Kendall's tau", range: [Math.min(0, ...fitted.map((h) => h.tau)), 1.03] } });
  const z = points.filter((p) => p[3] > 0).map((p) => Math.abs(p[0] - p[1]) / p[3]);
  $("calibration").parentElement.hidden = !z.length;
  if (z.length) {
    const levels = range(19).map((i) => (i + 1) / 20);
    draw("calibration", [
      { type: "scatter", mode: "lines", x: [0, 100], y: [0, 100], line: { color: css("--quiet"), width: 1, dash: "dot" }, hoverinfo: "skip" },
      { type: "scatter", mode: "lines+markers", x: levels.map((p) => 100 * p), marker: { size: 6 }, line: { color: css("--accent"), width: 1.5 },
        y: levels.map((p) => 100 * z.filter((v) => v <= normalQuantile((1 + p) / 2)).length / z.length),
        hovertemplate: "%{y:.0f} % of the errors lie in the interval that should hold %{x:.0f} %<extra></extra>" }],
    { title: "Calibration of the standard deviation", xaxis: { title: "predicted interval (%)", range: [0, 100] }, yaxis: { title: "measured within it (%)", range: [0, 102] } });
  } else if (points.length) notes.push("This predictor states no standard deviation.");
  $("surrogate-note").textContent = notes.join(" ");
}

/** The inverse of the standard normal distribution, by bisection of the integral's series. */
function normalQuantile(p) {
  const cdf = (x) => { // Abramowitz and Stegun 26.2.17
    const t = 1 / (1 + 0.2316419 * Math.abs(x));
    const tail = Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI) * t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
    return x >= 0 ? 1 - tail : tail;
  };
  let low = -8, high = 8;
  for (let i = 0; i < 60; i++) { const mid = (low + high) / 2; if (cdf(mid) < p) low = mid; else high = mid; }
  return (low + high) / 2;
}

function phasesOf(r) {
  const numbers = Object.keys(r.phases).map(Number).sort((a, b) => a - b);
  return { numbers, names: [...new Set(numbers.flatMap((i) => Object.keys(r.phases[i])))] };
}

const secondsIn = (phases, name) => (Object.hasOwn(phases, name) ? phases[name] : 0);

function drawPhases() {
  const r = run(), { numbers, names } = phasesOf(r);
  draw("phases", names.map((name, k) => ({ type: "bar", name: plain(name), x: numbers, y: numbers.map((i) => secondsIn(r.phases[i], name)),
    marker: { color: COLOURS[k % 6] }, hovertemplate: `iteration %{x}, ${plain(name)}: %{y:.2f} s<extra></extra>` })),
  { title: "Time by phase", barmode: "stack", showlegend: true, legend: { orientation: "h", y: 1, yanchor: "bottom", x: 1, xanchor: "right" },
    xaxis: { title: "iteration", tickformat: "d" }, yaxis: { title: "seconds" } });
}

// ------------------------------------------------------------------------------ the choices of the best
function chosenByLimit() {
  const r = run(), cost = r.values[1], maximise = r.axes[1].max;
  const sorted = [...cost].sort((a, b) => (maximise ? b - a : a - b));
  const limit = sorted[Math.max(0, Math.ceil(sorted.length * $("limit").value / 100) - 1)];
  const under = range(size()).filter((i) => (maximise ? cost[i] >= limit : cost[i] <= limit));
  under.sort((a, b) => r.values[0][a] - r.values[0][b] || (maximise ? cost[b] - cost[a] : cost[a] - cost[b]));
  const best = under.slice(0, Math.max(1, Math.round(under.length * $("share").value / 100)));
  return { best, under, limit };
}

function shares(r, group, networks) {
  const counts = group.values.map(() => 0);
  for (const i of networks) for (const gene of group.genes) {
    const place = r.vectors[i][gene];
    if (place !== UNUSED) counts[parseInt(place, 36)] += 1;
  }
  const total = counts.reduce((a, b) => a + b, 0) || 1;
  return counts.map((c) => c / total);
}

function mix(place, n) { // a colour between the two ends of the theme's scale, and what can be read on it
  const scale = SCALES[state.theme], t = n > 1 ? place / (n - 1) : 0.5;
  let k = 1;
  while (k < scale.length - 1 && scale[k][0] < t) k++;
  const [[t0, a], [t1, b]] = [scale[k - 1], scale[k]], w = (t - t0) / (t1 - t0);
  const part = (hex, i) => parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16);
  const rgb = [0, 1, 2].map((i) => Math.round(part(a, i) * (1 - w) + part(b, i) * w));
  const bright = rgb[0] * 0.299 + rgb[1] * 0.587 + rgb[2] * 0.114 > 130;
  return { fill: `rgb(${rgb})`, text: bright ? "#111" : "#fff" };
}

function drawChoices() {
  const r = run(), { best, under, limit } = chosenByLimit();
  const share = Number($("share").value);
  $("share-text").textContent = `${share} % (${best.length})`;
  $("limit-text").textContent = `${number(limit)} ${unit(1)} (${under.length} networks)`;
  $("limit-label").firstChild.textContent = `of those ${r.axes[1].max ? "from" : "up to"} `;
  const groups = r.groups, rows = groups.map((g) => plain(g.name));
  const most = Math.max(...groups.map((g) => g.values.length)), room = $("choices").clientWidth - 152;
  const inBest = groups.map((g) => shares(r, g, best)), inAll = groups.map((g) => shares(r, g, range(size())));
  const traces = range(most).map((j) => {
    const colours = groups.map((g) => (g.ordered ? mix(j, g.values.length)
      : { fill: COLOURS[j % 6], text: ["#fff", "#fff", "#fff", "#111", "#111", "#111"][j % 6] }));
    const value = (k) => (groups[k].values[j] === undefined ? 0 : inBest[k][j]);
    return { type: "bar", orientation: "h", y: rows, x: rows.map((_, k) => 100 * value(k)),
      text: groups.map((g, k) => (value(k) * room > 8 + 6.5 * (g.values[j] || "").length ? plain(g.values[j]) : "")),
      textposition: "inside", insidetextanchor: "middle", textangle: 0, constraintext: "none",
      textfont: { color: colours.map((c) => c.text), size: 11.5 }, marker: { color: colours.map((c) => c.fill), line: { color: css("--paper"), width: 1 } },
      hovertext: groups.map((g, k) => `${plain(g.name)} ${plain(g.values[j])}: ${(100 * value(k)).toFixed(0)} % of the best ${best.length}, ${(100 * (inAll[k][j] || 0)).toFixed(0)} % of all`),
      hovertemplate: "%{hovertext}<extra></extra>" };
  });
  $("choices").style.height = `${90 + 25 * rows.length}px`;
  draw("choices", traces, { title: "Choices of the best", barmode: "stack", bargap: 0.18, margin: { l: 130, r: 22, t: 34, b: 44 },
    xaxis: { title: "share of their choices (%)", range: [0, 100], dtick: 25 }, yaxis: { autorange: "reversed", ticks: "", showgrid: false } });
  $("choices-note").textContent = `The ${best.length} most accurate of ${under.length} networks ${r.axes[1].max ? "from" : "up to"} ${number(limit)} ${unit(1)}. Hover compares with all ${size()}.`;
}

function drawGenes() {
  const r = run(), rows = r.genes.map((g) => plain(g.name));
  $("genes").style.height = `${90 + Math.max(12, Math.min(18, 900 / rows.length)) * rows.length}px`;
  const names = ["accuracy", ...r.axes.slice(1).map((axis) => axis.name)];
  const line = r.genes.flatMap((g, k) => { const v = g.values.filter((x) => x !== null); return v.length ? [[Math.min(0, ...v), rows[k]], [Math.max(0, ...v), rows[k]], [null, null]] : []; });
  draw("genes", [{ type: "scatter", mode: "lines", x: line.map((p) => p[0]), y: line.map((p) => p[1]), line: { color: css("--line"), width: 2 }, hoverinfo: "skip", showlegend: false },
    ...names.map((name, k) => ({ type: "scatter", mode: "markers", name: plain(name), y: rows, x: r.genes.map((g) => g.values[k]),
      marker: { color: COLOURS[k % 6], symbol: SYMBOLS[k % 6], size: 7 },
      hovertemplate: `%{y}: %{x:.2f} with ${plain(name)}<extra></extra>` }))],
  { title: "Correlation of each choice", showlegend: true, legend: { orientation: "h", y: 1, yanchor: "bottom", x: 1, xanchor: "right" },
    margin: { l: 150, r: 12, t: 34, b: 44 }, xaxis: { title: "correlation over all evaluated", zeroline: true, zerolinecolor: css("--quiet"), range: [-1.02, 1.02] },
    yaxis: { type: "category", categoryorder: "array", categoryarray: [...rows].reverse(), tickmode: "array", tickvals: rows, tickfont: { size: 10.5 }, showgrid: false, ticks: "", range: [-0.8, rows.length - 0.2] } });
  $("genes-note").textContent = r.genes.every((g) => g.ordered)
    ? "Spearman's rank correlation over the networks that use the gene."
    : "Spearman's rank correlation; for choices without an order the correlation ratio, which has no sign.";
}

// ---------------------------------------------------------------------------------- one network
function drawing(r, index) {
  return (r.drawings.networks[index] || []).map((k) => r.drawings.blocks[k]);
}

function drawNetwork(id, blocks) {
  const height = blocks.map((b) => Math.sqrt(b[2]));
  const colour = (b) => KERNELS[b[4]] || "#CC79A7";
  const kernels = [...new Set(blocks.map((b) => b[4]))].sort((a, b) => a - b);
  const stages = [];
  blocks.forEach((b, i) => { const last = stages[stages.length - 1];
    if (last && last.stage === b[0]) last.end = i; else stages.push({ stage: b[0], start: i, end: i, size: b[6], out: b[3] }); });
  stages.forEach((s) => { s.size = blocks[s.end][6]; s.out = blocks[s.end][3]; });
  const traces = kernels.map((kernel) => {
    const own = range(blocks.length).filter((i) => blocks[i][4] === kernel);
    return { type: "bar", name: `${kernel}×${kernel}`, x: own, y: own.map((i) => height[i]), base: own.map((i) => -height[i] / 2), width: 0.82,
      marker: { color: colour(blocks[own[0]]) }, text: own.map((i) => blocks[i][5]), textposition: "inside", insidetextanchor: "middle", textangle: 0, constraintext: "none",
      textfont: { color: "#111", size: 11 },
      hovertext: own.map((i) => { const b = blocks[i]; return `${plain(b[1])}, stage ${plain(b[0])}<br>kernel ${b[4]}${b[5] ? ", expansion " + b[5] : ""}<br>${b[2]} channels inside, ${b[3]} out<br>output ${b[6]}×${b[6]}`; }),
      hovertemplate: "%{hovertext}<extra></extra>" };
  });
  const top = Math.max(...height) / 2;
  const narrow = stages.filter((s) => !["head", "stem"].includes(s.stage));
  draw(id, traces, { showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, title: { text: "kernel " } }, bargap: 0, barmode: "overlay",
    margin: { l: 8, r: 8, t: 30, b: 34 }, xaxis: { visible: false, range: [-0.7, blocks.length - 0.3] }, yaxis: { visible: false, range: [-top * 1.04, top * 1.04] },
    annotations: narrow.map((s) => ({ x: (s.start + s.end) / 2, y: 0, yref: "paper", yanchor: "top", showarrow: false, font: { size: 10.5, color: css("--quiet") }, text: `${s.out}<br>${s.size}²` })),
    shapes: narrow.slice(1).map((s) => ({ type: "line", xref: "x", yref: "paper", x0: s.start - 0.5, x1: s.start - 0.5, y0: 0, y1: 1, line: { color: css("--line"), width: 1 } })) });
}

/** A cell: nodes and arrows; an edge bends where it passes over nodes. */
function drawGraph(id, graph) {
  const points = ([a, b, , bend]) => {
    const [x0, y0] = graph.places[a], [x1, y1] = graph.places[b];
    return range(21).map((i) => { const t = i / 20; return [x0 + t * (x1 - x0), y0 + t * (y1 - y0) + 4 * t * (1 - t) * bend]; });
  };
  const lines = graph.edges.map(points), path = lines.flatMap((line) => [...line, [null, null]]);
  const arrows = lines.map((line) => ({ x: line[17][0], y: line[17][1], ax: line[15][0], ay: line[15][1], axref: "x", ayref: "y", text: "", showarrow: true, arrowhead: 2, arrowsize: 1.3, arrowcolor: css("--quiet") }));
  const names = lines.map((line, k) => ({ x: line[10][0], y: line[10][1], text: plain(graph.edges[k][2]), showarrow: false, bgcolor: css("--paper"), font: { size: 11 } })).filter((label) => label.text);
  const nodes = graph.nodes.map((label, i) => ({ x: graph.places[i][0], y: graph.places[i][1], text: plain(label), showarrow: false, bgcolor: css("--panel"), bordercolor: css("--quiet"), borderpad: 4, font: { size: 12 } }));
  const ys = path.map((p) => p[1]).filter((y) => y !== null), room = 0.5;
  draw(id, [{ type: "scatter", mode: "lines", x: path.map((p) => p[0]), y: path.map((p) => p[1]), line: { color: css("--quiet"), width: 1.3 }, hoverinfo: "skip" }],
    { margin: { l: 8, r: 8, t: 8, b: 8 }, annotations: [...arrows, ...names, ...nodes],
      xaxis: { visible: false, range: [-0.4, Math.max(...graph.places.map((p) => p[0])) + 0.4] }, yaxis: { visible: false, range: [Math.min(...ys) - room, Math.max(...ys) + room] } });
}

function definitions(pairs) {
  const list = make("dl");
  pairs.forEach(([term, value]) => list.append(make("dt", {}, term), make("dd", {}, value)));
  return list;
}

/** A command that wraps between its flags, not at their hyphens. */
function commandBox(text) {
  const words = text.split(/ (?=--)/).map((part, i) => make("span", {}, (i ? " " : "") + part));
  return make("div", {}, make("pre", { class: "command", tabindex: "0" }, ...words),
    make("button", { type: "button", onclick: (event) => copy(text, event.target) }, "Copy"));
}

function commandFor(indices) {
  return run().take_home.replace("--pick ''", `--pick ${indices.join(",")}`);
}

function showPinned() {
  const r = run(), i = state.pinned, panel = $("pinned");
  const old = $("architecture");
  if (old) Plotly.purge(old);
  const known = columns().filter((c) => c.axis === undefined && c.key !== ITERATION && c.values[i] !== null);
  panel.replaceChildren(make("h3", {}, `Network ${i}${onFront().has(i) ? ", on the front" : ""}`),
    definitions([["top-1 accuracy", percent(top1(i))],
      ...r.axes.slice(1).map((axis, k) => [axis.name, axisValue(i, k + 1)]),
      ["evaluated in", r.iteration[i] ? `iteration ${r.iteration[i]}` : "the initial sample"],
      ...known.map((c) => [c.label, number(c.values[i])])]));
  const blocks = drawing(r, i), graph = (r.drawings.graphs || [])[i];
  if (graph) panel.append(make("div", { id: "architecture", class: "chart" }));
  if (blocks.length) {
    panel.append(make("div", { id: "architecture", class: "chart" }),
      make("p", { class: "quiet" }, "Height: channels inside the block (square root); number: expansion; below: output channels and map size of the stage."));
  }
  panel.append(make("p", {}, make("code", {}, r.arch[i])), commandBox(commandFor([i])));
  if (blocks.length) drawNetwork("architecture", blocks);
  if (graph) drawGraph("architecture", graph);
}

function pin(index, scroll) {
  state.pinned = index;
  history.replaceState(null, "", `#run=${state.run}&network=${index}`);
  if (window.Plotly) { showPinned(); moveRing(); }
  document.querySelectorAll("#table tbody tr").forEach((row) => row.classList.toggle("pinned", Number(row.dataset.index) === index));
  if (scroll) $("front").scrollIntoView({ block: "center" });
}

function walkFront(step) {
  const r = run(), order = [...r.front].sort((a, b) => r.values[state.x][a] - r.values[state.x][b]);
  const at = order.indexOf(state.pinned);
  pin(order[at < 0 ? 0 : Math.max(0, Math.min(order.length - 1, at + step))]);
}

function showPicks() {
  const r = run(), scored = r.rescores[r.rescores.length - 1];
  $("picks-note").textContent = scored && scored.networks.some((n) => n.index !== null)
    ? `Chosen by the accuracy on unseen images (${scored.file}), of the networks that were scored on them.`
    : r.expected ? "Chosen by the accuracy that a Gaussian process expects from all measurements, which leaves out luck; the measured one stands first."
    : "Chosen by the accuracy that the search measured, which is too high for the best of many; post_search.py --rescore measures it on unseen images.";
  $("picks").replaceChildren(...r.picks.map((pick) => make("div", { class: "card" },
    make("h3", {}, make("button", { type: "button", onclick: () => pin(pick.index, true) }, pick.names.join(" = "))),
    make("p", { class: "figure" }, `${percent(unseen(r, pick.index).length ? unseen(r, pick.index)[0][0].top1 : top1(pick.index))} top-1`,
      ...r.axes.slice(1).map((_, k) => `, ${axisValue(pick.index, k + 1)}${r.axes[k + 1].unit === "millions" ? " " + r.axes[k + 1].name : ""}`)),
    ...unseen(r, pick.index).map(([network, scored]) => make("p", {}, `on ${scored.n} unseen ${scored.images}, 95 % interval ${interval(network)}; as the search measured it ${percent(top1(pick.index))}`)),
    ...expectation(r, pick.index).map((text) => make("p", {}, text)),
    make("p", { class: "quiet" }, `network ${pick.index}: ${pick.reason}`), commandBox(pick.command))));
}

// ---------------------------------------------------------------------- images that chose nothing
const percent = (value) => `${value.toFixed(2)} %`;
const interval = (found, sign = (v) => v.toFixed(2)) => `${sign(found.low)} to ${sign(found.high)}`;
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);

/** What was found for a network on images that chose nothing: [network, images], the latest alone. */
function unseen(r, index) {
  return r.rescores.flatMap((scored) => scored.networks.filter((n) => n.index === index).map((n) => [n, scored])).slice(-1);
}

function drawUnseen() {
  const r = run();
  $("unseen").replaceChildren(...r.rescores.flatMap((scored, k) => [make("div", { class: "narrow-wide" },
    make("figure", {}, make("div", { id: `unseen-${k}`, class: "chart" })), unseenTable(scored)), ...classTable(scored)]));
  r.rescores.forEach((scored, k) => drawScored(`unseen-${k}`, r, scored));
}

function drawScored(id, r, scored) {
  const known = scored.networks.filter((n) => n.index !== null), x = known.map((n) => r.values[1][n.index]);
  draw(id, [
    { type: "scatter", mode: "markers", name: "as the search measured it", x, y: known.map((n) => top1(n.index)), marker: { symbol: "circle-open", size: 9, color: css("--quiet"), line: { width: 1.5 } },
      hovertemplate: "%{y:.2f} % as the search measured it<extra></extra>" },
    { type: "scatter", mode: "markers", name: `on ${scored.n} unseen images`, x, y: known.map((n) => n.top1), marker: { size: 8, color: css("--accent") },
      error_y: { type: "data", symmetric: false, array: known.map((n) => n.high - n.top1), arrayminus: known.map((n) => n.top1 - n.low), thickness: 1.5, width: 5, color: css("--accent") },
      text: known.map((n) => `${plain(n.name)}: ${percent(n.top1)}, 95 % interval ${interval(n)}`), hovertemplate: "%{text}<extra></extra>" },
    ...baselines(r, 1, "unseen")],
  { showlegend: true, legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0 }, margin: { l: 56, r: 12, t: 30, b: 48 },
    xaxis: { title: plain(r.axes[1].label) }, yaxis: { title: "top-1 accuracy (%)" } });
}

function unseenTable(scored) {
  const pair = (name) => scored.pairs.find((p) => p.second === name);
  const verdict = (p) => `${signed(p.points)} points (${interval(p, signed)}): ${p.distinct ? "told apart" : "cannot be told apart"}`;
  const rows = scored.networks.map((n) => make("tr", {},
    make("td", { class: "words" }, n.index === null ? n.name : make("button", { type: "button", class: "plain", onclick: () => pin(n.index, true) }, n.name)),
    ...[n.index === null ? "–" : top1(n.index).toFixed(2), n.top1.toFixed(2), interval(n)].map((text) => make("td", {}, text)),
    make("td", { class: "sentence" }, pair(n.name) ? verdict(pair(n.name)) : "")));
  const heads = ["network", "search (%)", "unseen (%)", "95 % interval (%)", "against the one above"];
  return make("div", { class: "scroll" }, make("table", {}, make("caption", {}, `${scored.file}: ${scored.n} ${scored.images}`),
    make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))), make("tbody", {}, ...rows)));
}

/** The accuracy of each class, the worst first; nothing where an older record does not say. */
function classTable(scored) {
  const mean = (k) => scored.networks.reduce((sum, n) => sum + (n.by_class[k] ?? 101), 0);
  const rows = range(scored.classes.length).sort((a, b) => mean(a) - mean(b)).map((k) => make("tr", {},
    make("th", { scope: "row" }, scored.classes[k]), ...scored.networks.map((n) => make("td", {}, n.by_class[k] === null ? "–" : n.by_class[k].toFixed(1)))));
  const head = ["class", ...scored.networks.map((n) => n.name)].map((text) => make("th", { scope: "col" }, text));
  return rows.length ? [make("details", { open: rows.length <= 20, class: "classes" }, make("summary", {}, `Accuracy by class (%), the worst of ${rows.length} first`),
    make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows))))] : [];
}

// ------------------------------------------------------------------------------------------- table
function matches(text, value) {
  const wanted = text.trim();
  if (!wanted) return true;
  if (value === null || value === undefined) return false;
  const between = wanted.match(/^(-?[\d.]+(?:e[+-]?\d+)?)\s*\.\.\s*(-?[\d.]+(?:e[+-]?\d+)?)$/i);
  if (between) return value >= Number(between[1]) && value <= Number(between[2]);
  const limit = wanted.match(/^(<=|>=|<|>|=)\s*(-?[\d.]+(?:e[+-]?\d+)?)$/i);
  if (limit) {
    const bound = Number(limit[2]);
    return { "<=": value <= bound, ">=": value >= bound, "<": value < bound, ">": value > bound, "=": value === bound }[limit[1]];
  }
  return String(value).toLowerCase().includes(wanted.toLowerCase());
}

function tableColumns() {
  return [{ key: NUMBER, label: "network", values: range(size()) }, ...columns(),
    { key: ARCH, label: "architecture", values: run().arch, words: true }];
}

function listed() {
  const list = tableColumns(), front = onFront();
  const by = list.find((c) => c.key === state.sort.key) || list[0];
  const kept = range(size()).filter((i) => (!$("only-front").checked || front.has(i))
    && list.every((c) => matches(state.filters.get(c.key) || "", c.values[i])));
  const sign = state.sort.up ? 1 : -1;
  return kept.sort((a, b) => {
    const [u, v] = [by.values[a], by.values[b]];
    if (u === v) return a - b;
    if (u === null || v === null) return u === null ? 1 : -1;
    return sign * (u < v ? -1 : 1);
  });
}

function showTable() {
  const list = tableColumns();
  const head = make("tr", {}, make("th", { scope: "col" }, make("span", { "aria-hidden": "true" }, "✓")), ...list.map((c) => {
    const sorted = state.sort.key === c.key;
    return make("th", { scope: "col", "aria-sort": sorted ? (state.sort.up ? "ascending" : "descending") : "none" },
      make("button", { type: "button", onclick: () => { state.sort = { key: c.key, up: sorted ? !state.sort.up : true }; showTable(); } },
        c.label + (sorted ? (state.sort.up ? " ↑" : " ↓") : "")),
      make("input", { type: "search", "aria-label": `filter ${c.label}`, value: state.filters.get(c.key) || "", "data-key": c.key,
        oninput: (event) => { state.filters.set(c.key, event.target.value); state.shown = TABLE_ROWS; showRows(); } }));
  }));
  $("table").replaceChildren(make("thead", {}, head), make("tbody"));
  showRows();
}

function showRows() {
  const list = tableColumns(), rows = listed(), front = onFront();
  $("count").textContent = `${rows.length} of ${size()} networks, ${state.ticked.size} ticked`;
  document.querySelector("#table tbody").replaceChildren(...rows.slice(0, state.shown).map((i) => make("tr", {
    class: (front.has(i) ? "front " : "") + (i === state.pinned ? "pinned" : ""), "data-index": i,
    onclick: (event) => { if (!["INPUT", "BUTTON"].includes(event.target.tagName)) pin(i); } },
  make("td", {}, make("input", { type: "checkbox", "aria-label": `tick network ${i}`, checked: state.ticked.has(i),
    onchange: (event) => { if (event.target.checked) state.ticked.add(i); else state.ticked.delete(i); showRows.count(); } })),
  make("td", {}, make("button", { type: "button", class: "plain", "aria-label": `network ${i}`, onclick: () => pin(i) }, String(i))),
  ...list.slice(1).map((c) => make("td", { class: c.words ? "arch" : typeof c.values[i] === "string" ? "words" : "", title: c.words ? c.values[i] : false }, number(c.values[i]))))));
  $("more").hidden = rows.length <= state.shown;
  $("more").textContent = `Show all ${rows.length}`;
}

/** The arrow keys, Home and End go from row to row, in the same column. */
function walkTable(event) {
  const row = event.target.closest("tr"), rows = [...row.parentElement.children];
  const to = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling, Home: rows[0], End: rows[rows.length - 1] }[event.key];
  if (!to) return;
  event.preventDefault();
  to.querySelectorAll("input, button")[event.target.tagName === "INPUT" ? 0 : 1].focus();
}
showRows.count = () => { $("count").textContent = $("count").textContent.replace(/\d+ ticked/, `${state.ticked.size} ticked`); };

function csv(indices) {
  const list = tableColumns();
  const cell = (value) => { const text = value === null || value === undefined ? "" : String(value).replace(typeof value === "string" ? /^[=+\-@\t\r]/ : /^$/, "'$&"); // a formula to spreadsheets
    return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text; };
  return [list.map((c) => cell(c.label)).join(","), ...indices.map((i) => list.map((c) => cell(c.values[i])).join(","))].join("\n");
}

async function copy(text, button) {
  let done = true;
  try { await navigator.clipboard.writeText(text); } catch {
    const area = make("textarea", {}, text);
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
  }
  const label = button.dataset.label || (button.dataset.label = button.textContent);
  button.textContent = done ? "Copied" : "Could not copy";
  setTimeout(() => { button.textContent = label; }, 1500);
}

function copyTicked(what, button) {
  const indices = [...state.ticked].sort((a, b) => a - b);
  const text = indices.length ? what(indices) : "Tick the networks first.";
  $("copied").hidden = false;
  $("copied").textContent = text;
  if (indices.length) copy(text, button);
}

// ------------------------------------------------------------------------------------- the whole run
function showRun() {
  const r = run(), s = r.settings;
  const hv = r.history.length ? r.history[r.history.length - 1].hv : null;
  $("summary").textContent = [`${size()} evaluated`, `${r.front.length} on the front`,
    ...(hv === null ? [] : [`hypervolume ${hv.toFixed(4)}`]), `top-1 against ${r.axes.slice(1).map((a) => a.name).join(" and ")}`,
    ...(s.constraint ? [`within ${s.constraint}`] : []),
    ...(s.dataset && s.evaluator !== "table" ? [s.dataset] : []), ...(r.space ? [`space ${r.space}`] : [])].join(" · ");
  $("failures").replaceChildren(...failures(r));
  $("baselines").replaceChildren(...r.baselines.map((network) => make("li", {}, `baseline: ${network.line}`)));
  const spent = r.device_hours ? [["device time", `${r.device_hours >= 0.1 ? r.device_hours.toFixed(2) + " hours" : number(3600 * r.device_hours) + " s"} of evaluations`]] : [];
  const { names } = phasesOf(r);
  names.forEach((name) => spent.push([name, `${Object.values(r.phases).reduce((a, p) => a + secondsIn(p, name), 0).toFixed(1)} s`]));
  const settings = Object.entries(s).filter(([, v]) => v !== null).map(([k, v]) => [k, typeof v === "string" ? v : JSON.stringify(v)]);
  $("about").replaceChildren(
    ...(r.command ? [make("h3", {}, "Command"), commandBox(r.command_line)] : []),
    ...(spent.length ? [make("h3", {}, "Time"), definitions(spent)] : []),
    ...(Object.keys(r.versions).length ? [make("h3", {}, "Versions"), definitions([...Object.entries(r.versions), ...(r.machine ? [["machine", r.machine]] : [])])] : []),
    make("h3", {}, "Settings"), settings.length ? definitions(settings) : make("p", { class: "quiet" }, "The folder holds no settings."));
}

function failures(r) {
  const rows = r.failures.map((f) => make("tr", {}, make("td", {}, `iteration ${f.iteration}, network ${f.index}`), make("td", { class: "words" }, f.status), make("td", { class: "words" }, f.error)));
  return [make("h3", {}, r.failures.length ? `${r.failures.length} evaluations failed` : "No evaluation failed"),
    ...(rows.length ? [make("div", { class: "scroll" }, make("table", {}, make("tbody", {}, ...rows)))] : []),
    ...(r.retries.length ? [make("h3", {}, `${r.retries.length} attempts were started again`), make("pre", { tabindex: "0" }, r.retries.join("\n"))] : [])];
}

function drawComparison() {
  const first = DATA.runs[0].axes.map((a) => a.key).join();
  const same = DATA.runs.every((r) => r.axes.map((a) => a.key).join() === first);
  const legend = { orientation: "h", y: 1, yanchor: "bottom", x: 1, xanchor: "right" };
  const shown = DATA.runs.filter((r) => r.axes[1].key === DATA.runs[0].axes[1].key);
  const groups = groupsOf(DATA.runs), grouped = groups.length < DATA.runs.length;
  draw("compare-front", shown.map((r) => {
    const k = groups.findIndex(([group]) => group === r.group), order = [...r.front].sort((a, b) => r.values[1][a] - r.values[1][b]);
    return { type: "scatter", mode: "lines+markers", name: plain(grouped ? r.group : r.name), legendgroup: plain(r.group), showlegend: r === groups[k][1][0], opacity: grouped ? 0.7 : 1, x: order.map((i) => r.values[1][i]), y: order.map((i) => judged(r, 0)[i]),
      text: order.map((i) => hoverText(r, i)), hovertemplate: `${plain(r.name)}: %{text}<extra></extra>`,
      line: { shape: r.axes[1].max ? "vh" : "hv", color: COLOURS[k % 6], dash: DASHES[k % 6], width: 1.5 }, marker: { symbol: SYMBOLS[k % 6], size: 7, color: COLOURS[k % 6] } };
  }), { title: "Fronts", showlegend: true, legend, xaxis: { title: plain(DATA.runs[0].axes[1].label) }, yaxis: { title: "top-1 error (%)" } });
  const curves = groups.map(([, runs]) => meanCurve(runs));
  const start = Math.max(1, Math.min(...DATA.runs.map((r) => r.n_initial)) / 2);
  const shownValues = curves.flatMap((c) => [...c.low.filter((_, i) => c.n[i] >= start), last(c.high)]);
  const bands = curves.map((c, k) => ({ type: "scatter", mode: "lines", x: [...c.n, ...[...c.n].reverse()], y: [...c.high, ...[...c.low].reverse()],
    fill: "toself", fillcolor: COLOURS[k % 6] + "38", line: { width: 0 }, hoverinfo: "skip", showlegend: false }));
  draw("compare-hv", [...(grouped ? bands : []), ...curves.map((c, k) => hvTrace(grouped ? groups[k][0] : groups[k][1][0].name, c.n, c.mean, k, false))], {
    title: same ? "Hypervolume, one reference point" : "Hypervolume, each with its own reference",
    showlegend: true, legend, xaxis: { title: "evaluated networks", rangemode: "tozero" }, yaxis: { title: "normalised hypervolume", range: padded(shownValues) } });
  $("compare-note").textContent = grouped ? "Lines are means over the runs that differ in their seeds alone; bands and ± are one standard error." : "";
  const top = (r, pick) => (100 - r.values[0][pick.index]).toFixed(2);
  const row = (r) => { const best = r.picks.find((p) => p.names.includes("best")), knee = r.picks.find((p) => p.names.includes("knee"));
    const values = [r.arch.length, r.front.length, last(r.hv.value).toFixed(4), top(r, best),
      top(r, knee), number(r.values[1][knee.index]), r.failures.length, r.settings.seed ?? "–", r.settings.strategy ?? r.settings.predictor ?? "–"];
    return make("tr", {}, make("th", { scope: "row" }, r.name), ...values.map((v) => make("td", {}, String(v)))); };
  $("compare-groups").parentElement.hidden = !grouped;
  const best = (r) => 100 - ends(r.values[0])[0];
  $("compare-groups").replaceChildren(make("thead", {}, make("tr", {}, ...["strategy", "runs", "evaluated", "hypervolume", "best top-1 (%)"].map((t) => make("th", { scope: "col" }, t)))),
    make("tbody", {}, ...groups.map(([name, runs]) => make("tr", {}, make("th", { scope: "row" }, name), ...[runs.length, [...new Set(runs.map((r) => r.arch.length))].join(", "),
      withError(runs.map((r) => last(r.hv.value)), 4), withError(runs.map(best), 2)].map((v) => make("td", {}, String(v)))))));
  $("compare-table").replaceChildren(make("thead", {}, make("tr", {}, ...["run", "evaluated", "on the front", "hypervolume", "best top-1 (%)", "knee top-1 (%)",
    `knee ${DATA.runs[0].axes[1].label}`, "failed", "seed", "strategy"].map((t) => make("th", { scope: "col" }, t)))), make("tbody", {}, ...DATA.runs.map(row)));
}

// ------------------------------------------------------------------------------------------- start
function options(select, entries, value) {
  select.replaceChildren(...entries.map(([key, label]) => make("option", { value: key, selected: String(key) === String(value) }, label)));
}

function fillControls() {
  const axes = run().axes.map((axis, i) => [i, axis.label]), figures = columns().filter(numeric).map((c) => [c.key, c.label]);
  options($("x-axis"), axes, state.x);
  options($("y-axis"), axes, state.y);
  options($("colour"), figures, state.colour);
  options($("size"), [["", "all equal"], ...figures], state.size);
  ["x-axis", "y-axis"].forEach((id) => { $(id).parentElement.hidden = axes.length < 3; });
}

// What draws a part of the page, once that part comes into view.
const LATER = { "compare-section": drawComparison, "unseen-section": drawUnseen, many: drawMany, hypervolume: drawHypervolume,
  "surrogate-section": drawSurrogate, phases: drawPhases, choices: drawChoices, genes: drawGenes };
const observer = new IntersectionObserver((entries) => entries.filter((e) => e.isIntersecting).forEach((e) => {
  observer.unobserve(e.target);
  LATER[e.target.id]();
}), { rootMargin: "300px" });

function drawAll() {
  observer.disconnect();
  drawFront();
  showPinned();
  Object.keys(LATER).forEach((id) => observer.observe($(id)));
}

function drawNow() {
  drawAll();
  Object.keys(LATER).filter((id) => !$(id).hidden).forEach((id) => LATER[id]());
}

function hideWhatIsEmpty() {
  $("compare-section").hidden = DATA.runs.length < 2;
  $("unseen-section").hidden = !run().rescores.length;
  $("many").hidden = run().axes.length < 3;
  $("surrogate-section").hidden = !fittedIterations().length;
  $("choices-section").hidden = !run().groups.length;
  $("phases").hidden = !phasesOf(run()).names.length;
}

function chooseRun(index, network) {
  $("log-x").checked = $("log-y").checked = false;
  Object.assign(state, { run: index, x: 1, y: 0, colour: ITERATION, size: "", filters: new Map(), ticked: new Set(), shown: TABLE_ROWS });
  state.pinned = Number.isInteger(network) && network >= 0 && network < size() ? network : run().picks[0].index;
  hideWhatIsEmpty();
  fillControls();
  showPicks();
  showRun();
  showTable();
  if (window.Plotly) drawAll(); // else the charts follow when it is loaded
}

function setTheme(theme) {
  state.theme = theme;
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = theme === "dark" ? "Light" : "Dark";
}

function wire() {
  const changed = (id, key, convert = (v) => v) => $(id).addEventListener("change", () => { state[key] = convert($(id).value); drawFront(); });
  changed("x-axis", "x", Number);
  changed("y-axis", "y", Number);
  changed("colour", "colour");
  changed("size", "size");
  ["log-x", "log-y"].forEach((id) => $(id).addEventListener("change", drawFront));
  $("table").addEventListener("keydown", (event) => { if (event.target.closest("tbody")) walkTable(event); });
  $("theme").addEventListener("click", () => { setTheme(state.theme === "dark" ? "light" : "dark"); drawAll(); });
  $("run").addEventListener("change", () => chooseRun(Number($("run").value), -1));
  ["share", "limit"].forEach((id) => $(id).addEventListener("input", drawChoices));
  $("only-front").addEventListener("change", showRows);
  $("more").addEventListener("click", () => { state.shown = Infinity; showRows(); });
  $("tick-all").addEventListener("click", () => { listed().forEach((i) => state.ticked.add(i)); showRows(); });
  $("untick").addEventListener("click", () => { state.ticked.clear(); showRows(); });
  $("copy-csv").addEventListener("click", (event) => copyTicked(csv, event.target));
  $("copy-command").addEventListener("click", (event) => copyTicked(commandFor, event.target));
  $("front").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step) { event.preventDefault(); walkFront(step); }
  });
  $("front").on("plotly_click", (event) => {
    const point = event.points.find((p) => p.curveNumber === 1);
    if (point) pin(point.pointIndex);
  });
  let before = null;
  const printing = (on) => document.documentElement.classList.toggle("printing", on);
  window.addEventListener("beforeprint", () => { before = state.theme; setTheme("light"); printing(true); drawNow(); });
  window.addEventListener("afterprint", () => { if (before) setTheme(before); printing(false); drawAll(); });
  const seconds = Number(document.body.dataset.refresh);
  if (seconds) setTimeout(() => location.reload(), 1000 * seconds);
}

/** Unpacks plotly and runs it: compressed it is a third as large. The words are on the page by then. */
async function loadPlotly() {
  const bytes = Uint8Array.from(atob($("plotly").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = make("script", {}, await new Response(stream).text());
  document.head.append(script);
  $("plotly").remove();
}

async function start() {
  const place = new URLSearchParams(location.hash.slice(1));
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  $("title").textContent = DATA.runs.length > 1 ? `Search report: ${DATA.runs.length} runs` : `Search report: ${run().title}`;
  options($("run"), DATA.runs.map((r, i) => [i, r.name]), 0);
  $("run-choice").hidden = DATA.runs.length < 2;
  const index = Number(place.get("run") || 0);
  chooseRun(DATA.runs[index] ? index : 0, place.has("network") ? Number(place.get("network")) : -1);
  $("run").value = String(state.run);
  performance.mark("words");
  await loadPlotly();
  drawAll();
  wire();
  performance.mark("charts");
  document.body.dataset.ready = "yes";
}

start().catch((error) => {
  $("problem").hidden = false;
  $("problem").textContent = `The charts could not be drawn: ${error.message}.${window.DecompressionStream ? "" : " A browser from 2023 or later is needed."}`;
  throw error;
});
