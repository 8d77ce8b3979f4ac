// Error along the network.

// Far below any rounding error of FP32: the floors of operators that must be exact would stretch the axis to 1e-38.
const EXACT = 1e-11;

/** Whether there is an error to draw; a run for a fix has layers without one. */
const measured = (row) => row.local != null || row.accumulated != null;

/** What a logarithmic axis can show of the values: zeros at its foot, what is not finite at its head. */
function extent(rows) {
  const logs = rows.flatMap((row) => [row.local, row.accumulated, row.floor]).filter((v) => v > EXACT && v < Infinity).map(Math.log10);
  const low = logs.reduce((a, b) => Math.min(a, b), 0), high = logs.reduce((a, b) => Math.max(a, b), -Infinity);
  return logs.length ? [Math.floor(low) - 1, Math.ceil(high) + 1] : [-9, 1];
}

const bounding = ([low, high]) => (v) => (v == null ? null : !Number.isFinite(v) ? 10 ** (high - 0.4) : v > EXACT ? v : 10 ** (low + 0.4));

/** The figure at once, without plotly, whose script takes a second to unpack; it takes this one's place. */
function sketchNetwork() {
  const plot = find("#plot"), { rows, first } = state.candidate;
  const { clientWidth: width, clientHeight: height } = plot;
  const range = extent(rows), [low, high] = range, bounded = bounding(range);
  const left = 56, right = 12, top = 30, bottom = 44;
  const start = rows[0].index, most = Math.max(1, rows[rows.length - 1].index - start);
  const x = (row) => left + 8 + (width - left - right - 16) * (row.index - start) / most;
  const y = (value) => top + (height - top - bottom) * (high - Math.log10(value)) / (high - low);
  const line = (key, kind) => {
    const points = rows.filter((row) => row[key] != null && (key !== "floor" || row.floor > EXACT));
    return drawn("polyline", { class: kind, points: points.map((row) => `${x(row).toFixed(1)},${y(bounded(row[key])).toFixed(1)}`).join(" ") });
  };
  const dots = rows.filter((row) => row.local != null).map((row) => `M${x(row).toFixed(1)} ${y(bounded(row.local)).toFixed(1)}h0`).join("");
  const { tickvals, ticktext } = decades(low, high);
  const grid = tickvals.flatMap((value, i) => [
    drawn("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
    drawn("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, ticktext[i])]);
  const names = [["accumulated", "Accumulated"], ["floor", "Floor"], ["local", "Local"]].map(([kind, name], i) => drawn("text", { class: `of-${kind}`, x: left + 110 * i, y: 14 }, name));
  const mark = first === null ? [] : [drawn("line", { class: "first", x1: x(rows[first]), x2: x(rows[first]), y1: top, y2: height - bottom })];
  plot.replaceChildren(drawn("svg", { class: "sketch", width, height, "aria-hidden": "true" }, ...grid, ...mark,
    line("accumulated", "accumulated"), line("floor", "floor"), drawn("path", { class: "local", d: dots }), ...names,
    drawn("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, "depth (node index)")));
}

function tip(row) {
  return `${escaped(elided(row.tensor, 56))}<br>${escaped(elided(row.op ?? "", 40))}${row.judged ? ` · ${row.judged}` : ""}` +
    `<br>local ${number(row.local)}, floor ${number(row.floor)}<br>accumulated ${number(row.accumulated)}`;
}

function traces(rows, first, range) {
  const bounded = bounding(range);
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
    made.push({ x: [rows[first].index], y: [bounded(rows[first].local ?? rows[first].accumulated ?? 0)], name: state.candidate.called[0].toUpperCase() + state.candidate.called.slice(1), mode: "markers", hoverinfo: "skip",
                marker: { size: 14, symbol: "diamond-open", color: color("--bad-mark"), line: { width: 2.5 } } });
  return made;
}

async function drawNetwork() {
  const { rows, first } = state.candidate;
  const range = extent(rows), { axis, look } = base();
  const mark = first === null ? [] : [rows[first].index];
  const few = rows[rows.length - 1].index < 12 && { dtick: 1 };
  await draw(find("#plot"), traces(rows, first, range), {
    ...look, hovermode: "x", margin: { l: 56, r: 12, t: 8, b: 44 },
    xaxis: { ...axis, title: titled("depth (node index)"), showgrid: false, ...few },
    yaxis: { ...axis, type: "log", range, ...decades(...range) },
    shapes: mark.map((x) => across("x", x, { layer: "below", line: { color: color("--bad-mark"), width: 1, dash: "dash" } })),
  });
  const zeros = rows.some((row) => row.local === 0), wild = rows.some((row) => [row.local, row.accumulated].some((v) => v != null && !Number.isFinite(v)));
  find("#plot-note").textContent = "Click a point to see its layer; drag to zoom, double-click to zoom out." +
    (zeros && rows.length <= MARKED ? " Open circles at the foot are exact (0)." : "") + (wild ? " Crosses at the head are Inf or NaN." : "");
}
