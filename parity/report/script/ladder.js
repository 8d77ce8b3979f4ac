// The ladder: what each rung adds to the error of the outputs, and what has gathered.

async function drawLadder() {
  const plot = find("#ladder-plot"), { axis, look } = base();
  const rungs = report.ladder.map(([name, above, error, added, mark, place]) => ({ name, above, error: figure(error), added: figure(added), mark, place }));
  const logs = rungs.flatMap(({ error, added }) => [error, added]).filter((v) => v > 0 && v < Infinity).map(Math.log10);
  const low = Math.floor(Math.min(-1, ...logs) - 0.5), high = Math.ceil(Math.max(low + 2, ...logs) + 0.3);
  const bounded = (v) => (v == null ? null : !Number.isFinite(v) ? 10 ** (high - 0.1) : v > 0 ? v : 10 ** (low + 0.1));
  const x = rungs.map((_, i) => i), places = rungs.map(({ place }) => (place === null ? null : [place, null]));
  const said = rungs.map(({ name, error, added }) => `${escaped(elided(name, 56))}<br>error ${number(error)}, adds ${number(added)}`);
  const hues = { bad: "--bad-mark", warn: "--accumulated", good: "--floor", none: "--floor" };
  const steps = rungs.flatMap(({ above, error }, i) => (above === null ? [] : [[above, bounded(rungs[above].error)], [i, bounded(error)], [null, null]]));
  const room = Math.max(10, Math.floor(plot.clientWidth / (7 * rungs.length)));
  await draw(plot, [
    { name: "Adds", type: "bar", x, y: rungs.map(({ above, added }) => (above === null ? null : bounded(added))), base: 0, marker: { color: rungs.map(({ mark }) => color(hues[mark])) },
      customdata: places, text: said, textposition: "none", hovertemplate: "%{text}<extra></extra>" },
    { x: steps.map(([i]) => i), y: steps.map(([, v]) => v), mode: "lines", line: { color: color("--local"), width: 1.5 }, connectgaps: false, hoverinfo: "skip", showlegend: false },
    { name: "Error", x, y: rungs.map(({ error }) => bounded(error)), mode: "markers", marker: { size: 10, color: color("--local"), symbol: rungs.map(({ error }) => (error === 0 ? "circle-open" : "circle")) },
      customdata: places, text: said, hovertemplate: "%{text}<extra></extra>" },
  ], { ...look, height: 360, showlegend: true, bargap: 0.5, dragmode: false, margin: { l: 52, r: 12, t: 8, b: 44 },
       xaxis: { ...axis, range: [-0.6, rungs.length - 0.4], tickvals: x, ticktext: rungs.map(({ name }) => escaped(elided(name, Math.min(28, 2 * room)))), tickangle: -30, automargin: true, showgrid: false },
       yaxis: { ...axis, type: "log", range: [low, high], ...decades(low, high), title: titled("relative error of the outputs") } });
}
