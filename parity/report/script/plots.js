// What all figures share: plotly, its looks, and where a click leads.

const MARKED = 3000; // points that are drawn one by one; beyond, a line

/** plotly's script, unpacked; the policy of this page names its hash. */
async function loadPlotly() {
  const text = atob(find("#plotly").textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  document.head.append(element("script", { textContent: await new Response(stream).text() }));
}

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** The policy refuses the style attribute of plotly's own superscripts. */
const powerOfTen = (power) => (power === 0 ? "1" : `10${String(power).replace("-", "⁻").replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit])}`);

/** Ticks of a logarithmic axis from 10^low to 10^high: powers of ten, with digits between them where there are few. */
function decades(low, high, most = 8) {
  const every = Math.max(1, Math.ceil((high - low) / most));
  const digits = high - low > 4 ? [1] : high - low > 2 ? [1, 3] : [1, 2, 5];
  const powers = [];
  for (let power = Math.floor(low); power <= high; power++) if (power % every === 0) powers.push(power);
  const values = powers.flatMap((power) => digits.map((digit) => digit * 10 ** power)).filter((value) => Math.log10(value) >= low && Math.log10(value) <= high);
  return { tickvals: values, ticktext: values.map((value) => (digits.length > 1 ? number(value) : powerOfTen(Math.round(Math.log10(value))))) };
}

/** What all figures look like. */
function base() {
  const family = getComputedStyle(document.body).fontFamily;
  const axis = { gridcolor: color("--rule"), linecolor: color("--rule"), zeroline: false, tickfont: { color: color("--quiet") } };
  return { axis, look: {
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    font: { family, size: 13, color: color("--ink") }, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    hoverlabel: { align: "left", bgcolor: color("--card"), bordercolor: color("--local"), font: { family, color: color("--ink") } },
  } };
}

const titled = (text) => ({ text, standoff: 8, font: { size: 13, color: color("--quiet") } });

/** A line across the whole figure at a value of one axis. */
const across = (axis, value, look) => (axis === "x" ? { type: "line", x0: value, x1: value, yref: "paper", y0: 0, y1: 1, ...look }
  : { type: "line", y0: value, y1: value, xref: "paper", x0: 0, x1: 1, ...look });

const PLAIN = { displayModeBar: false, responsive: true };

/** A figure that leads to the layer whose point is clicked; `customdata` is its row, or [place of the target, row]. */
async function draw(plot, data, look) {
  find(".sketch", plot)?.remove();
  await Plotly.react(plot, data, look, PLAIN);
  plot.removeAllListeners("plotly_click");
  plot.on("plotly_click", ({ points }) => {
    const point = points.find(({ customdata }) => customdata != null);
    if (!point) return;
    const [place, row] = Array.isArray(point.customdata) ? point.customdata : [state.candidate.place, point.customdata];
    visit(place, row ?? null, { reveal: true });
    if (row == null) find(`#target-${place}`)?.scrollIntoView();
  });
}

/** Every figure of the candidate in sight. */
async function drawFigures() {
  if (!window.Plotly || !state.candidate) return;
  const { place, rows, shares, curve } = state.candidate;
  if (rows.some(measured)) await drawNetwork();
  for (const plot of document.querySelectorAll(`.detail[data-candidate="${place}"] [data-plot]`)) {
    plot.parentElement.hidden = false;
    if (plot.dataset.plot === "shares" && shares.length) await drawShares(plot, shares);
    if (plot.dataset.plot === "curve" && curve.length) await drawCurve(plot, state.candidate);
  }
  if (state.selected >= 0) await drawPortrait(rows[state.selected]);
  await drawAcross();
}
