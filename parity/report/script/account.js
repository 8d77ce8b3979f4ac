// Where the error comes from, and what mends it.

/** Bars by layer, the largest on top; offsets to the left; what is no layer in the colour of the floor. */
async function drawShares(plot, entries) {
  const { axis, look } = base();
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
    xaxis: { ...axis, range: [low < 0 ? low - room : 0, high + room], tickformat: ".0%", nticks: narrow ? 4 : 7, zeroline: true, zerolinecolor: color("--quiet"), title: titled("share of the output error") },
    yaxis: { ...axis, range: [entries.length - 0.4, -0.6], tickvals: y, ticktext: names, showgrid: false } });
}

/** Error against layers kept, with the limit, what the kept layers compute, and where the fix came out on the target. */
async function drawCurve(plot, { curve, fix }) {
  const { axis, look } = base(), { bounded, axis: errors, limit } = overLimit([fix[1], ...curve.map(([, error]) => error)]);
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
  await draw(plot, data, { ...look, ...limit, height: 340, margin: { l: 52, r: 56, t: 8, b: 44 },
    xaxis: { ...axis, title: titled("layers kept"), range: [-0.03 * near, 1.03 * near], showgrid: false }, yaxis: errors,
    yaxis2: { ...axis, overlaying: "y", side: "right", range: [0, 1.02], tickvals: [0, 0.25, 0.5, 0.75, 1], tickformat: ".0%", showgrid: false } });
}
