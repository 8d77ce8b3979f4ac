// Across targets: the map of targets by layers, and error against latency.

async function drawAcross() {
  for (const [plot, drawIt] of [[find("#history-plot"), drawHistory], [find("#ladder-plot"), drawLadder], [find("#cost-plot"), drawCost], [find("#map-plot"), drawMap]])
    if (plot) {
      plot.parentElement.hidden = false;
      await drawIt();
    }
}

/** Every tensor that a target shows, by depth. */
function allTensors() {
  const depths = new Map();
  for (const { rows } of candidates) for (const { tensor, index } of rows) if (!depths.has(tensor)) depths.set(tensor, index);
  return [...depths].sort(([, a], [, b]) => a - b).map(([tensor]) => tensor);
}

async function drawMap() {
  const key = find("#map-figure").value, shown = candidates.filter((each) => each.rows.length);
  const tensors = allTensors().filter((tensor) => shown.some(({ byTensor }) => byTensor.get(tensor)?.[key] != null));
  const { axis, look } = base(), thin = find("#map-plot").clientWidth < 8 * tensors.length;
  const values = shown.map(({ byTensor }) => tensors.map((tensor) => byTensor.get(tensor)?.[key] ?? null));
  const logs = values.flat().filter((v) => v > EXACT && v < Infinity).map(Math.log10);
  const low = logs.reduce((a, b) => Math.min(a, b), 0), high = logs.reduce((a, b) => Math.max(a, b), low + 1);
  const scaled = (v) => (v === null ? null : !Number.isFinite(v) ? high : v > 0 ? Math.max(low, Math.log10(v)) : low);
  find("#map-low").textContent = number(10 ** low);
  find("#map-high").textContent = number(10 ** high);
  const names = shown.map(({ target }) => escaped(elided(target, find("#map-plot").clientWidth < 520 ? 16 : 28)));
  await draw(find("#map-plot"), [{
    type: "heatmap", z: values.map((row) => row.map(scaled)), zmin: low, zmax: high, colorscale: "Cividis", xgap: thin ? 0 : 1, ygap: 2,
    customdata: shown.map(({ place, byTensor }) => tensors.map((tensor) => [place, byTensor.get(tensor)?.row ?? null])),
    text: values.map((row) => row.map((value, i) => `${escaped(elided(tensors[i], 56))}<br>${number(value)}`)), hovertemplate: "%{text}<extra></extra>",
    showscale: false, // the policy refuses its empty style attributes; the legend is in the page
  }], { ...look, height: 90 + 34 * shown.length, dragmode: "zoom", margin: { l: 8, r: 8, t: 8, b: 44 },
        xaxis: { ...axis, title: titled("layer, by depth"), showgrid: false },
        yaxis: { ...axis, autorange: "reversed", tickvals: shown.map((_, i) => i), ticktext: names, automargin: true, fixedrange: true, showgrid: false } });
}

/** What a logarithmic axis shows of errors as multiples of their limit: zeros at its foot, what is not finite at its head. */
function overLimit(errors) {
  const logs = [0, ...errors.filter((v) => v > 0 && v < Infinity).map(Math.log10)];
  const low = Math.floor(2 * Math.min(...logs) - 0.4) / 2, high = Math.ceil(2 * Math.max(...logs) + 0.4) / 2;
  return { bounded: (v) => (v == null ? null : !Number.isFinite(v) ? 10 ** (high - 0.06) : v > 0 ? v : 10 ** (low + 0.06)),
    axis: { ...base().axis, type: "log", range: [low, high], ...decades(low, high), title: titled("error / limit") },
    limit: { shapes: [across("y", 1, { line: { color: color("--bad-mark"), width: 1, dash: "dash" } })],
      annotations: [{ xref: "paper", x: 1, xanchor: "right", y: 0, yanchor: "bottom", text: "limit", showarrow: false, font: { size: 12, color: color("--bad-mark") } }] } };
}

const SHAPES = ["circle", "square", "diamond", "triangle-up", "cross", "star"]; // beside colour, so that none is needed

/** Worst output error of each target through the runs. */
async function drawHistory() {
  const { axis, look } = base(), courses = report.history.map(([target, ...errors]) => [target, errors.map(figure)]);
  const shown = overLimit(courses.flatMap(([, errors]) => errors)), x = report.runs.map((_, i) => i);
  const hues = ["--local", "--accumulated", "--good", "--floor", "--bad-mark"].map(color);
  await draw(find("#history-plot"), courses.map(([target, errors], i) => ({
    name: escaped(elided(target, 28)), x, y: errors.map(shown.bounded), mode: "lines+markers", connectgaps: true, line: { color: hues[i % hues.length], width: 1.5 },
    marker: { size: 9, symbol: SHAPES[i % SHAPES.length], color: hues[i % hues.length] },
    text: errors.map((error, run) => `${escaped(elided(report.runs[run], 40))}<br>${number(error)} of the limit`), hovertemplate: "%{text}<extra></extra>",
  })), { ...look, ...shown.limit, height: 320, showlegend: true, margin: { l: 52, r: 16, t: 8, b: 44 }, yaxis: shown.axis,
         xaxis: { ...axis, range: [-0.2, x.length - 0.8], tickvals: x, ticktext: report.runs.map((name) => escaped(elided(name, 18))), showgrid: false } });
}

/** Worst output error against latency: a point a target, and one a fix that was tried on it. */
async function drawCost() {
  const { axis, look } = base(), points = report.costs.map(([place, label, fix, ...figures]) => [place, label, fix, ...figures.map(figure)]);
  const { bounded, axis: errors, limit } = overLimit(points.map(([, , , , error]) => error));
  const of = (name, wanted, symbol, key) => {
    const some = points.filter(([, , fix]) => fix === wanted);
    return { name, mode: "markers", x: some.map(([, , , ms]) => ms), y: some.map(([, , , , error]) => bounded(error)), customdata: some.map(([place]) => [place, null]),
      marker: { size: 12, symbol, color: color(key), line: { width: 2, color: color(key) } },
      text: some.map(([, label, , ms, error]) => `${escaped(elided(label, 64))}<br>${number(ms)} ms, ${number(error)} of the limit`), hovertemplate: "%{text}<extra></extra>" };
  };
  const most = Math.max(...points.map(([, , , ms]) => ms));
  await draw(find("#cost-plot"), [of("A target", 0, "circle", "--local"), of("A fix tried on it", 1, "diamond-open", "--bad-mark")].filter((trace) => trace.x.length), {
    ...look, ...limit, height: 320, showlegend: true, margin: { l: 52, r: 12, t: 8, b: 44 },
    xaxis: { ...axis, title: titled("latency, ms"), range: [0, 1.08 * most] }, yaxis: errors });
}
