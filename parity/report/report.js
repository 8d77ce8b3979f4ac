"use strict";

/**
 * One tensor. Figures are numbers (NaN and Infinity among them) or null; texts are strings or null.
 * @typedef {Object<string, number|string|null>} Row
 * The account is [label, op, share, row or null] a line, the curve [layers kept, error, multiply-adds, bytes] a point;
 * the fix is [layers kept, error].
 * @typedef {{place: number, target: string, first: number|null, rows: Row[], has: Set<string>,
 *            shares: Array[], curve: Array[], fix: number[]}} Candidate
 */

const find = (selector, root = document) => root.querySelector(selector);

/** An element with attributes (or properties) and children, text among them; never markup. */
function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

// -- data -------------------------------------------------------------------------------------------------------------

const NONFINITE = { nan: NaN, inf: Infinity, "-inf": -Infinity };
const figure = (value) => (typeof value === "string" ? NONFINITE[value] : value);

/** @returns {Candidate} */
function decode(columns, strings) {
  const rows = Array.from({ length: columns.count }, (_, row) => ({ row }));
  for (const [name, column] of Object.entries(columns.texts))
    rows.forEach((row, i) => { row[name] = column[i] === null ? null : strings[column[i]]; });
  for (const [name, column] of Object.entries(columns.figures))
    rows.forEach((row, i) => { row[name] = figure(column[i]); });
  for (const row of rows) {
    row.ratio = over(row.local, row.floor);
    row.words = [row.tensor, row.node, row.op, row.source].join("\n").toLowerCase();
    row.bad = !row.passed && row.origin !== "inherited";
    row.judged = row.row === columns.first ? "first bad" : row.bad ? row.origin || "bad" : row.origin || "";
  }
  const has = new Set(Object.keys(columns.figures).filter((name) => name !== "nonfinite" || rows.some((row) => row.nonfinite)));
  const { place, target, first, shares = [], curve = [], fix = [] } = columns;
  return { place, target, first, rows, has, fix: fix.map(figure), curve: curve.map((point) => point.map(figure)),
           shares: shares.map(([label, op, share, row]) => [label, op, figure(share), row]) };
}

/** Local error over its floor; 0/0 is 0 for an operator that must be exact and was. */
function over(local, floor) {
  if (local == null || floor == null) return null;
  return floor === 0 ? (local === 0 ? 0 : Infinity) : local / floor;
}

/** A figure to three significant digits, as words.number writes it. */
function number(value) {
  if (value == null) return "–";
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  const rounded = Number(value.toExponential(2));
  if (rounded === 0) return "0";
  const size = Math.abs(rounded);
  if (size >= 1e-3 && size < 1e3) return String(Number(rounded.toPrecision(3)));
  return size >= 1e3 && size < 1e5 ? rounded.toLocaleString("en-US") : value.toExponential(2).replace("e+", "e");
}

/** A share as a signed percentage, as shares.percent writes it. */
function percent(value) {
  if (value == null || !Number.isFinite(value)) return number(value);
  const size = Math.abs(100 * value), sign = size < 0.05 ? "" : value < 0 ? "−" : "+";
  const digits = { minimumFractionDigits: 1, maximumFractionDigits: 1 };
  return sign + (size < 1e6 ? size.toLocaleString("en-US", digits) : number(size)) + "%";
}

const whole = (value) => (value == null ? "–" : value.toLocaleString("en-US"));

/** The name with its middle left out. */
function elided(name, room) {
  if (name.length <= room) return name;
  const head = Math.floor(room / 3);
  return `${name.slice(0, head)}…${name.slice(name.length - (room - 1 - head))}`;
}

// -- the layer table: only the rows in sight are drawn -----------------------------------------------------------------

/** @type {{key: string, title: string, meaning: string, show?: function, optional?: boolean}[]} */
const COLUMNS = [
  { key: "index", title: "#", meaning: "position of the node in topological order", show: whole },
  { key: "tensor", title: "Tensor", meaning: "ONNX name" },
  { key: "op", title: "Op", meaning: "operator" },
  { key: "judged", title: "Judged", meaning: "what a bad tensor suffers from" },
  { key: "share", title: "Share", meaning: "share of the output error", show: percent, optional: true },
  { key: "energy", title: "Energy", meaning: "what this layer alone does to the output", show: number, optional: true },
  { key: "local", title: "Local", meaning: "relative L2 error that the layer itself adds", show: number },
  { key: "floor", title: "Floor", meaning: "local error that is accepted as rounding", show: number },
  { key: "ratio", title: "× floor", meaning: "local error over its floor", show: number },
  { key: "accumulated", title: "Accumulated", meaning: "relative L2 error, everything upstream included", show: number },
  { key: "max_abs", title: "Max |Δ|", meaning: "largest absolute difference", show: number },
  { key: "sqnr_db", title: "SQNR dB", meaning: "signal to error ratio in decibels", show: number },
  { key: "nonfinite", title: "Inf/NaN", meaning: "elements that are Inf or NaN on one side only", show: whole, optional: true },
  { key: "precision", title: "Precision", meaning: "local error that the format explains", show: number, optional: true },
  { key: "implementation", title: "Implementation", meaning: "local error that the format does not explain", show: number, optional: true },
];

const ROW_HEIGHT = 32; // as --row in report.css
const MARGIN = 12; // rows drawn beyond either edge, so that a short scroll shows no gap
const PRINTED = 500; // rows that paper gets

const scroller = find("#scroller");
const body = find("#table tbody");
const state = { /** @type {Candidate|null} */ candidate: null, columns: COLUMNS, shown: [], sort: "index", down: false,
                selected: -1, drawn: "" };

/** Missing values stay last; NaN counts as worse than infinity. */
function compare(a, b, down) {
  if (a == null || b == null) return (a == null) - (b == null);
  const order = typeof a === "string" ? (a < b ? -1 : a > b ? 1 : 0)
    : Number.isNaN(a) || Number.isNaN(b) ? Number.isNaN(a) - Number.isNaN(b) : a < b ? -1 : a > b ? 1 : 0;
  return down ? -order : order;
}

function drawHead() {
  const cells = state.columns.map((column) => {
    const button = element("button", { type: "button", title: column.meaning }, column.title);
    button.addEventListener("click", () => {
      state.down = state.sort === column.key ? !state.down : Boolean(column.show) && column.key !== "index";
      state.sort = column.key;
      filter();
    });
    const cell = element("th", { scope: "col", className: `c-${column.key}${column.show ? " figure" : ""}` }, button);
    if (state.sort === column.key) cell.ariaSort = state.down ? "descending" : "ascending";
    return cell;
  });
  const focused = [...find("#table thead tr").children].findIndex((cell) => cell.contains(document.activeElement));
  find("#table thead tr").replaceChildren(...cells);
  if (focused >= 0) find("button", cells[focused]).focus();
}

function filter() {
  const wanted = find("#search").value.trim().toLowerCase();
  const onlyBad = find("#only-bad").checked;
  const rows = state.candidate.rows;
  state.shown = rows.filter((row) => (!onlyBad || row.bad) && row.words.includes(wanted));
  state.shown.sort((a, b) => compare(a[state.sort], b[state.sort], state.down) || a.row - b.row);
  find("#count").textContent = state.shown.length === rows.length ? `${whole(rows.length)} tensors`
    : `${whole(state.shown.length)} of ${whole(rows.length)} tensors`;
  find("#table").ariaRowCount = state.shown.length + 1;
  scroller.scrollTop = 0;
  drawHead();
  drawRows();
}

function drawRows(everything = false) {
  const total = state.shown.length;
  const start = everything ? 0 : Math.max(0, Math.floor(scroller.scrollTop / ROW_HEIGHT) - MARGIN);
  const end = Math.min(total, everything ? PRINTED : start + Math.ceil(scroller.clientHeight / ROW_HEIGHT) + 2 * MARGIN);
  const rows = state.shown.slice(start, end).map((row, i) => drawRow(row, start + i));
  if (total === 0) rows.push(element("tr", {}, element("td", { colSpan: state.columns.length, className: "empty" }, "No tensor matches.")));
  body.replaceChildren(gap(start), ...rows, gap(everything ? 0 : total - end));
  if (everything && end < total) body.append(element("tr", {}, element("td", { colSpan: state.columns.length }, `and ${whole(total - end)} more`)));
}

function gap(rows) {
  const cell = element("td", { colSpan: state.columns.length });
  cell.style.height = `${rows * ROW_HEIGHT}px`;
  return element("tr", { className: "gap", ariaHidden: "true", hidden: rows === 0 }, cell);
}

function drawRow(row, place) {
  const cells = state.columns.map(({ key, show }) => {
    const text = show ? show(row[key]) : row[key] ?? "";
    const cell = element("td", { className: `c-${key}${show ? " figure" : ""}` }, show ? text : element("bdi", {}, text));
    if (!show) cell.title = text;
    return cell;
  });
  const drawn = element("tr", { ariaRowIndex: place + 2, className: row.bad ? "bad" : "" }, ...cells);
  if (row.row === state.candidate.first) drawn.classList.add("first");
  if (row.row === state.selected) drawn.ariaCurrent = "true";
  drawn.addEventListener("click", () => select(row.row));
  return drawn;
}

/** Mark a row, bring it into sight and say everything about it below the table. */
function select(row, { reveal = false } = {}) {
  state.selected = row;
  let place = state.shown.findIndex((shown) => shown.row === row);
  if (place < 0) {
    find("#search").value = "";
    find("#only-bad").checked = false;
    filter();
    place = state.shown.findIndex((shown) => shown.row === row);
  }
  const head = find("#table thead").offsetHeight;
  const top = place * ROW_HEIGHT;
  if (reveal) scroller.scrollTop = top - (scroller.clientHeight - head) / 2;
  else if (top < scroller.scrollTop) scroller.scrollTop = top;
  else if (top + ROW_HEIGHT + head > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + ROW_HEIGHT + head - scroller.clientHeight;
  drawRows();
  drawLayer(state.candidate.rows[row]);
  if (reveal) {
    find("#layers").scrollIntoView({ block: "start" });
    scroller.focus({ preventScroll: true });
  }
}

function drawLayer(row) {
  const facts = [["node", row.node || "(unnamed)"], ["operator", row.op], ["shape", `${row.dtype ?? ""} ${row.shape}`],
    ["source", row.source || "not recorded"], ["judged", row.judged || "not to blame"],
    ["local error", number(row.local)], ["floor", number(row.floor)], ["local max |Δ|", number(row.local_max_abs)],
    ["accumulated error", number(row.accumulated)], ["max |Δ|", number(row.max_abs)], ["SQNR", `${number(row.sqnr_db)} dB`],
    ["cosine", number(row.cosine)], ["reference ran on", row.level || "–"]];
  if (state.candidate.has.has("share")) facts.push(["share of the output error", percent(row.share)]);
  if (state.candidate.has.has("energy")) facts.push(["energy", number(row.energy)]);
  const pairs = facts.map(([label, value]) => element("div", {}, element("dt", {}, label), element("dd", {}, element("bdi", {}, value))));
  find("#layer").replaceChildren(element("h3", {}, element("bdi", { className: "name" }, row.tensor)), element("dl", {}, ...pairs));
}

function move(event) {
  const page = Math.max(1, Math.floor(scroller.clientHeight / ROW_HEIGHT) - 2);
  const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
  if (step === undefined || event.target !== scroller || state.shown.length === 0) return;
  event.preventDefault();
  const now = state.shown.findIndex((row) => row.row === state.selected);
  select(state.shown[Math.min(state.shown.length - 1, Math.max(0, now + step))].row);
}

/** A cell of CSV; a text that a spreadsheet would run as a formula gets an apostrophe, as in layers.csv. */
function csvCell(value, isFigure) {
  if (value == null) return "";
  if (isFigure) return Number.isFinite(value) ? String(value) : Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
  const text = /^[=+\-@'\t\r\n]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function download() {
  const texts = ["tensor", "node", "op", "source", "dtype", "shape", "judged"];
  const figures = ["index", "ratio", ...state.candidate.has].filter((name, i, all) => all.indexOf(name) === i);
  const lines = state.shown.map((row) => [...texts.map((name) => csvCell(row[name], false)), ...figures.map((name) => csvCell(row[name], true))].join(","));
  const link = element("a", { download: "layers.csv",
    href: URL.createObjectURL(new Blob([[[...texts, ...figures].join(","), ...lines, ""].join("\n")], { type: "text/csv" })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// -- the figure --------------------------------------------------------------------------------------------------------

const MARKED = 3000; // points that are drawn one by one; beyond, a line

/** plotly's script, unpacked; the policy of this page names its hash. */
async function loadPlotly() {
  const text = atob(find("#plotly").textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  document.head.append(element("script", { textContent: await new Response(stream).text() }));
}

// Far below any rounding error of FP32: the floors of operators that must be exact would stretch the axis to 1e-38.
const EXACT = 1e-11;

/** What a logarithmic axis can show of the values: zeros at its foot, what is not finite at its head. */
function extent(rows) {
  const logs = rows.flatMap((row) => [row.local, row.accumulated, row.floor]).filter((v) => v > EXACT && v < Infinity).map(Math.log10);
  const low = logs.reduce((a, b) => Math.min(a, b), 0), high = logs.reduce((a, b) => Math.max(a, b), -Infinity);
  return logs.length ? [Math.floor(low) - 1, Math.ceil(high) + 1] : [-9, 1];
}

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function tip(row) {
  return `${escaped(elided(row.tensor, 56))}<br>${escaped(elided(row.op ?? "", 40))}${row.judged ? ` · ${row.judged}` : ""}` +
    `<br>local ${number(row.local)}, floor ${number(row.floor)}<br>accumulated ${number(row.accumulated)}`;
}

function traces(rows, first, [low, high], color) {
  const bounded = (v) => (v == null ? null : !Number.isFinite(v) ? 10 ** (high - 0.4) : v > EXACT ? v : 10 ** (low + 0.4));
  const symbol = (v) => (v == null || Number.isFinite(v) ? (v === 0 ? "circle-open" : "circle") : "x");
  const x = rows.map((row) => row.index);
  const few = rows.length <= MARKED;
  const marker = few ? { size: rows.length > 300 ? 4 : 6, color: color("--local"), symbol: rows.map((row) => symbol(row.local)) } : {};
  const made = [
    { name: "Accumulated", y: rows.map((row) => bounded(row.accumulated)), mode: "lines", line: { color: color("--accumulated"), width: 2 } },
    { name: "Floor", y: rows.map((row) => (row.floor > EXACT ? row.floor : null)), mode: "lines", connectgaps: true, line: { color: color("--floor"), width: 1.5, dash: "dot", shape: "hvh" } },
    { name: "Local", y: rows.map((row) => (few || row.local !== 0 ? bounded(row.local) : null)), mode: few ? "markers" : "lines", marker, line: { color: color("--local"), width: 1 } },
  ].map((trace) => ({ ...trace, x, hoverinfo: "skip", connectgaps: true }));
  // One trace that cannot be seen answers the pointer at every depth, whatever the row lacks.
  made.push({ x, y: rows.map((row) => bounded(row.local ?? row.accumulated ?? 0)), mode: "lines", line: { width: 0 }, showlegend: false,
              connectgaps: true, customdata: rows.map((row) => row.row), text: rows.map(tip), hovertemplate: "%{text}<extra></extra>" });
  if (first !== null)
    made.push({ x: [rows[first].index], y: [bounded(rows[first].local ?? rows[first].accumulated ?? 0)], name: "First bad", mode: "markers", hoverinfo: "skip",
                marker: { size: 14, symbol: "diamond-open", color: color("--bad-mark"), line: { width: 2.5 } } });
  return made;
}

/** The policy refuses the style attribute of plotly's own superscripts. */
const powerOfTen = (power) => (power === 0 ? "1" : `10${String(power).replace("-", "⁻").replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit])}`);

/** What all figures look like. */
function base(color) {
  const family = getComputedStyle(document.body).fontFamily;
  const axis = { gridcolor: color("--rule"), linecolor: color("--rule"), zeroline: false, tickfont: { color: color("--quiet") } };
  return { axis, look: {
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    font: { family, size: 13, color: color("--ink") }, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    hoverlabel: { align: "left", bgcolor: color("--card"), bordercolor: color("--local"), font: { family, color: color("--ink") } },
  } };
}

const titled = (text, color) => ({ text, standoff: 8, font: { size: 13, color: color("--quiet") } });

function layout(rows, first, [low, high], color) {
  const { axis, look } = base(color);
  const mark = first === null ? [] : [rows[first].index];
  const every = Math.max(1, Math.ceil((high - low) / 8));
  const powers = Array.from({ length: high - low + 1 }, (_, i) => low + i).filter((power) => power % every === 0);
  return {
    ...look, hovermode: "x", margin: { l: 56, r: 12, t: 8, b: 44 },
    xaxis: { ...axis, title: titled("depth (node index)", color), showgrid: false,
             ...(rows[rows.length - 1].index < 12 && { dtick: 1 }) },
    yaxis: { ...axis, type: "log", range: [low, high], tickvals: powers.map((power) => 10 ** power), ticktext: powers.map(powerOfTen) },
    shapes: mark.map((x) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, layer: "below", line: { color: color("--bad-mark"), width: 1, dash: "dash" } })),
  };
}

const PLAIN = { displayModeBar: false, responsive: true };

/** A figure that leads to the layer whose point is clicked. */
async function draw(plot, data, look) {
  await Plotly.react(plot, data, look, PLAIN);
  plot.removeAllListeners("plotly_click");
  plot.on("plotly_click", ({ points }) => {
    const point = points.find(({ customdata }) => customdata != null);
    if (point) select(point.customdata, { reveal: true });
  });
}

/** Every figure of the candidate in sight. */
async function drawFigures() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const { place, rows, shares, curve } = state.candidate;
  for (const plot of document.querySelectorAll(`.detail[data-candidate="${place}"] [data-plot]`)) {
    plot.parentElement.hidden = false;
    if (plot.dataset.plot === "shares" && shares.length) await drawShares(plot, shares, color);
    if (plot.dataset.plot === "curve" && curve.length) await drawCurve(plot, state.candidate, color);
  }
  if (rows.length) await drawNetwork(color);
}

async function drawNetwork(color) {
  const { rows, first } = state.candidate;
  const range = extent(rows);
  const plot = find("#plot");
  await draw(plot, traces(rows, first, range, color), layout(rows, first, range, color));
  const zeros = rows.some((row) => row.local === 0), wild = rows.some((row) => [row.local, row.accumulated].some((v) => v != null && !Number.isFinite(v)));
  find("#plot-note").textContent = "Click a point to see its layer; drag to zoom, double-click to zoom out." +
    (zeros && rows.length <= MARKED ? " Open circles at the foot are exact (0)." : "") + (wild ? " Crosses at the head are Inf or NaN." : "");
}

/** Bars by layer, the largest on top; offsets to the left; what is no layer in the colour of the floor. */
async function drawShares(plot, entries, color) {
  const { axis, look } = base(color);
  const narrow = plot.clientWidth < 520;
  const y = entries.map((_, i) => i), x = entries.map(([, , share]) => share);
  const low = Math.min(0, ...x.filter(Number.isFinite)), high = Math.max(0, ...x.filter(Number.isFinite));
  const left = narrow ? 132 : 216, figures = 54; // pixels that a name and the figure at a bar's end take
  const room = figures * (high - low || 1) / Math.max(60, plot.clientWidth - left - (low < 0 ? 2 : 1) * figures);
  const names = entries.map(([label]) => escaped(elided(label, narrow ? 18 : 30)));
  const bars = { type: "bar", orientation: "h", x, y, text: x.map(percent), textposition: "outside", cliponaxis: false, textfont: { color: color("--ink") },
    customdata: entries.map(([, , , row]) => row), hovertemplate: "%{hovertext}<extra></extra>",
    hovertext: entries.map(([label, op, share]) => `${escaped(elided(label, 56))}${op ? `<br>${escaped(elided(op, 40))}` : ""}<br>${percent(share)}`),
    marker: { color: entries.map(([, , share, row]) => color(row === null ? "--floor" : share < 0 ? "--accumulated" : "--local")) } };
  await draw(plot, [bars], { ...look, height: 28 * entries.length + 48, bargap: 0.35, dragmode: false, showlegend: false,
    margin: { l: left, r: 8, t: 4, b: 44 },
    xaxis: { ...axis, range: [low < 0 ? low - room : 0, high + room], tickformat: ".0%", nticks: narrow ? 4 : 7, zeroline: true, zerolinecolor: color("--quiet"), title: titled("share of the output error", color) },
    yaxis: { ...axis, range: [entries.length - 0.4, -0.6], tickvals: y, ticktext: names, showgrid: false } });
}

/** Error against layers kept, with the limit, what the kept layers compute, and where the fix came out on the target. */
async function drawCurve(plot, { curve, fix }, color) {
  const { axis, look } = base(color);
  const logs = [1, fix[1], ...curve.map(([, error]) => error)].filter((v) => v > 0 && v < Infinity).map(Math.log10);
  const low = Math.floor(2 * Math.min(...logs) - 0.2) / 2, high = Math.ceil(2 * Math.max(...logs) + 0.2) / 2;
  const bounded = (v) => (!Number.isFinite(v) ? 10 ** (high - 0.06) : v > 0 ? v : 10 ** (low + 0.06));
  const symbol = (v) => (!Number.isFinite(v) ? "x" : v === 0 ? "circle-open" : "circle");
  const x = curve.map(([kept]) => kept), most = Math.max(1, ...x), near = Math.min(most, Math.max(10, 4 * fix[0]));
  const said = curve.map(([kept, error, operations, bytes]) => `${whole(kept)} kept: ${number(error)} of the limit<br>` +
    `${percent(operations).replace("+", "")} of multiply-adds, ${percent(bytes).replace("+", "")} of weight bytes`);
  const data = [
    { name: "Multiply-adds", x, y: curve.map(([, , operations]) => operations), yaxis: "y2", mode: "lines", line: { color: color("--floor"), width: 1.5, dash: "dot" }, hoverinfo: "skip" },
    { name: "Error / limit", x, y: curve.map(([, error]) => bounded(error)), mode: "lines+markers", line: { color: color("--local"), width: 1.5 },
      marker: { size: 7, color: color("--local"), symbol: curve.map(([, error]) => symbol(error)) }, text: said, hovertemplate: "%{text}<extra></extra>" },
    { name: "The fix", x: [fix[0]], y: [bounded(fix[1])], mode: "markers", marker: { size: 14, symbol: "diamond-open", color: color("--bad-mark"), line: { width: 2.5 } },
      text: [`the fix on the target: ${number(fix[1])} of the limit`], hovertemplate: "%{text}<extra></extra>" },
  ];
  const ticks = [-3, -2, -1, 0, 1, 2, 3, 4, 5, 6].flatMap((power) => (high - low > 4 ? [1] : high - low > 2 ? [1, 3] : [1, 2, 5]).map((digit) => digit * 10 ** power));
  await draw(plot, data, { ...look, height: 340, margin: { l: 52, r: 56, t: 8, b: 44 },
    xaxis: { ...axis, title: titled("layers kept", color), range: [-0.03 * near, 1.03 * near], showgrid: false },
    yaxis: { ...axis, type: "log", range: [low, high], tickvals: ticks, ticktext: ticks.map(number), title: titled("error / limit", color) },
    yaxis2: { ...axis, overlaying: "y", side: "right", range: [0, 1.02], tickvals: [0, 0.25, 0.5, 0.75, 1], tickformat: ".0%", showgrid: false },
    shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 1, y1: 1, line: { color: color("--bad-mark"), width: 1, dash: "dash" } }],
    annotations: [{ xref: "paper", x: 1, xanchor: "right", y: 0, yanchor: "bottom", text: "limit", showarrow: false, font: { size: 12, color: color("--bad-mark") } }] });
}

// -- putting it together -----------------------------------------------------------------------------------------------

const report = JSON.parse(find("#data").textContent);
const candidates = report.candidates.map((columns) => decode(columns, report.strings));

function choose(place) {
  const candidate = candidates.find((each) => each.place === place);
  if (!candidate) return;
  for (const detail of document.querySelectorAll(".detail")) detail.hidden = Number(detail.dataset.candidate) !== place;
  const empty = candidate.rows.length === 0;
  find("#network").hidden = find("#layers").hidden = empty;
  find("#target").value = place;
  Object.assign(state, { candidate, selected: -1, columns: COLUMNS.filter((column) => !column.optional || candidate.has.has(column.key)) });
  find("#layer").replaceChildren();
  if (!empty) filter();
  if (window.Plotly) drawFigures();
}

function listen() {
  find("#target").append(...candidates.map((each) => element("option", { value: each.place }, each.target)));
  find("#target").addEventListener("change", (event) => choose(Number(event.target.value)));
  find("label.target").hidden = candidates.length < 2;
  for (const link of document.querySelectorAll("a[data-candidate]")) link.addEventListener("click", () => choose(Number(link.dataset.candidate)));
  for (const link of document.querySelectorAll("a[data-first]"))
    link.addEventListener("click", (event) => { event.preventDefault(); select(state.candidate.first, { reveal: true }); });
  for (const link of document.querySelectorAll("a[data-row]"))
    link.addEventListener("click", (event) => { event.preventDefault(); select(Number(link.dataset.row), { reveal: true }); });
  find("#search").addEventListener("input", filter);
  find("#only-bad").addEventListener("change", filter);
  find("#download").addEventListener("click", download);
  scroller.addEventListener("keydown", move);
  scroller.addEventListener("scroll", () => requestAnimationFrame(() => drawRows()), { passive: true });
  addEventListener("beforeprint", () => state.candidate && drawRows(true));
  addEventListener("afterprint", () => state.candidate && drawRows());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => window.Plotly && drawFigures());
}

listen();
choose(report.focus);
if (candidates.some((each) => each.rows.length || each.curve.length))
  // The table is on screen before the figure's large script is touched.
  requestAnimationFrame(() => setTimeout(() => loadPlotly().then(drawFigures).catch((error) => {
    find("#plot-note").textContent = `The figure could not be drawn (${error.message}); the table below holds the same figures.`;
  })));
