// A layer's page: its figures, both distributions, its worst elements, what stands around it, and how it is elsewhere.

const pairs = (facts) => element("dl", {}, ...facts.map(([label, value]) => element("div", {}, element("dt", {}, label), element("dd", {}, element("bdi", {}, value)))));

/** A table whose cells are texts, figures after the first `texts` columns. */
function plainTable(caption, head, rows, texts = 1, kind = "") {
  const cell = (tag, text, i) => element(tag, { className: i >= texts ? "figure" : "", ...(tag === "th" && { scope: "col" }) }, text instanceof Node ? text : element("bdi", {}, text));
  const lines = rows.map((row) => {
    const cells = row.map((text, i) => cell("td", text, i));
    cells.forEach((each, i) => { each.dataset.head = head[i]; });
    return element("tr", {}, ...cells);
  });
  return element("div", { className: `wide ${kind}`, tabIndex: 0, role: "region", ariaLabel: caption }, element("table", {}, element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...head.map((text, i) => cell("th", text, i)))), element("tbody", {}, ...lines)));
}

function drawLayer(row) {
  const { has, portraits } = state.candidate, portrait = portraits[row.row];
  const facts = [["node", row.node || "(unnamed)"], ["operator", row.op], ["shape", `${row.dtype ?? ""} ${row.shape}`],
    ["source", row.source || "not recorded"], ["judged", row.judged || "not to blame"],
    ["local error", number(row.local)],
    ...(row.precision == null ? [] : [["the format alone", number(row.precision)], ["the rest", number(row.implementation)]]),
    ["accepted up to", row.floor != null && row.floor < 1e-30 ? "exact" : number(row.floor)], ["local max |Δ|", number(row.local_max_abs)],
    ["accumulated error", number(row.accumulated)], ["max |Δ|", number(row.max_abs)], ["SQNR", `${number(row.sqnr_db)} dB`],
    ["cosine", number(row.cosine)], ["reference ran on", row.level || "–"]];
  if (has.has("share")) facts.push(["share of the output error", percent(row.share)]);
  if (has.has("energy")) facts.push(["energy", number(row.energy)]);
  find("#layer").replaceChildren(
    element("h3", { id: "layer-title" }, element("bdi", { className: "name" }, row.tensor)), pairs(facts),
    ...aroundLayer(row), ...(portrait ? portraitParts(portrait) : []), ...elsewhere(row));
  find("#layer-said").textContent = `${row.tensor}, ${row.op}, ${row.judged || "not to blame"}`;
  if (portrait && window.Plotly) drawPortrait(row);
}

// -- both distributions ------------------------------------------------------------------------------------------------

const range = (low, high) => (low === null ? "not shown" : `${number(figure(low))} to ${number(figure(high))}`);

/** What a number format does to a tensor, in words. */
function formatted([name, low, high, step, scales, zero, clipped]) {
  const grain = name.includes("int") ? `steps of ${number(figure(step))}${scales > 1 ? ` (the largest of ${whole(scales)} scales)` : ""}${zero == null ? "" : `, zero at ${zero}`}`
    : `smallest normal number ${number(figure(step))}`;
  return `${name}: ${range(low, high)}, ${grain}${clipped == null ? "" : `, ${clipped ? percent(clipped).replace("+", "") : "nothing"} clipped`}`;
}

function portraitParts(portrait) {
  const picture = (id, said, note) => element("figure", {}, element("div", { id, className: "small-plot", role: "img", ariaLabel: `${said} The facts below say its range.` }), element("figcaption", {}, note));
  const parts = [element("h4", {}, "Both distributions"), element("div", { className: "beside" },
    picture("values-plot", "How the values are distributed on both sides.", portrait.format ? `Dashed: what the format can hold. ${formatted(portrait.format)}.` : "Elements a bin, on both sides."),
    picture("error-plot", "How the differences are distributed.", "Target less reference; elements a bin."))];
  if (portrait.worst.length)
    parts.push(element("h4", {}, "Worst elements"), plainTable("Worst elements", ["Index", "Reference", "Target", "Difference"],
      portrait.worst.map(([index, reference, other]) => [`[${index}]`, number(figure(reference)), number(figure(other)), number(figure(other) - figure(reference))]), 1, "slim"));
  if (portrait.operands.length)
    parts.push(element("h4", {}, "What it reads"), plainTable("What it reads", ["Input", "Range on the target", "Held as"],
      portrait.operands.map(([name, low, high, format]) => [name, range(low, high), format ? formatted(format) : "as it is"]), 3));
  return parts;
}

/** Bars of a histogram that may be drawn over each other. */
function bars(name, low, high, counts, look) {
  const width = (high - low) / counts.length || 1;
  return { type: "bar", name, x: counts.map((_, i) => low + (i + 0.5) * width), y: counts.map((count) => count || null), width: counts.map(() => width),
           hovertemplate: `${name}: %{y:,} near %{x:.3g}<extra></extra>`, ...look };
}

async function drawPortrait(row) {
  const portrait = state.candidate.portraits[row.row];
  if (!portrait) return;
  const { axis, look } = base();
  const shared = { ...look, height: 260, margin: { l: 48, r: 12, t: 8, b: 40 }, bargap: 0, dragmode: false, yaxis: axis };
  const counted = (...counts) => { // from half an element, so that a single one can be seen
    const top = Math.log10(Math.max(1, ...counts.flat())) + 0.15;
    return { ...axis, type: "log", title: titled("elements"), range: [-0.3, top], ...decades(0, Math.max(1, top), 4) };
  };
  const [low, high, reference, other] = portrait.values;
  const format = portrait.format, span = high - low || 1;
  const limits = format ? [format[1], format[2]].map(figure).filter((limit) => limit > low - span / 2 && limit < high + span / 2) : [];
  await draw(find("#values-plot"), [
    bars("Reference", low, high, reference, { marker: { color: color("--accumulated") } }),
    bars("Target", low, high, other, { type: "scatter", mode: "lines", line: { color: color("--local"), width: 2, shape: "hvh" }, width: undefined }),
  ], { ...shared, barmode: "overlay", yaxis: counted(reference, other), xaxis: { ...axis, title: titled("value"), showgrid: false },
       shapes: limits.map((limit) => across("x", limit, { line: { color: color("--bad-mark"), width: 1.5, dash: "dash" } })) });
  const [least, most, counts] = portrait.error;
  await draw(find("#error-plot"), [bars("Difference", least, most, counts, { marker: { color: color("--local") } })],
    { ...shared, showlegend: false, yaxis: counted(counts), xaxis: { ...axis, title: titled("difference"), showgrid: false } });
}

// -- the sub-graph around it -------------------------------------------------------------------------------------------

const NEIGHBOURS = 6; // drawn on either side

function aroundLayer(row) {
  const before = reads.get(row.tensor) ?? [], after = readers.get(row.tensor) ?? [];
  if (!before.length && !after.length) return [];
  const wide = find("#layers").clientWidth >= 720;
  const columns = [before, [row.tensor], after].map((names) => (names.length > NEIGHBOURS ? [...names.slice(0, NEIGHBOURS - 1), null] : names));
  const width = find("#layers").clientWidth, box = { width: wide ? Math.min(300, (width - 120) / 3) : width - 2, height: 58 }, gapY = 12, gapX = wide ? (width - 2 - 3 * box.width) / 2 : 0;
  const most = Math.max(...columns.map((names) => names.length));
  const height = wide ? most * (box.height + gapY) : (columns.flat().length) * (box.height + gapY) + 2 * 24;
  const places = columns.map((names, column) => names.map((_, i) => (wide
    ? { x: column * (box.width + gapX) + 1, y: (i + (most - names.length) / 2) * (box.height + gapY) + 1 }
    : { x: 1, y: (columns.slice(0, column).flat().length + i) * (box.height + gapY) + 24 * column + 1 })));
  const centre = places[1][0];
  const edge = (from, to) => (wide
    ? `M${from.x + box.width} ${from.y + box.height / 2}C${from.x + box.width + gapX / 2} ${from.y + box.height / 2} ${to.x - gapX / 2} ${to.y + box.height / 2} ${to.x - 5} ${to.y + box.height / 2}`
    : `M${from.x + box.width / 2} ${from.y + box.height}L${to.x + box.width / 2} ${to.y - 5}`);
  const last = (side) => (wide ? side : side.slice(-1)), first = (side) => (wide ? side : side.slice(0, 1));
  const edges = [...last(places[0]).map((from) => edge(from, centre)), ...first(places[2]).map((to) => edge(centre, to))];
  const boxes = columns.flatMap((names, column) => names.map((name, i) => layerBox(name, places[column][i], box, column === 1,
    column === 1 ? 0 : (column === 0 ? before : after).length - NEIGHBOURS + 1)));
  return [element("h4", {}, "What stands around it"), drawn("svg", { class: "around", width, height, role: "group", "aria-label": `Reads ${whole(before.length)}, read by ${whole(after.length)}` },
    drawn("defs", {}, drawn("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 4, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, drawn("path", { d: "M0 0L8 4L0 8z" }))),
    ...edges.map((d) => drawn("path", { class: "edge", d, "marker-end": "url(#arrow)" })), ...boxes)];
}

/** One layer as a box that leads to it; null stands for those that there is no room for. */
function layerBox(name, { x, y }, box, chosen, more) {
  const row = name === null ? undefined : state.candidate.byTensor.get(name);
  const room = Math.floor((box.width - 20) / 7.4);
  const says = name === null ? [`and ${whole(more)} more`, ""] : row ? [row.op || "input", `local ${number(row.local)} · accumulated ${number(row.accumulated)}`] : ["not shown by the target", ""];
  const made = drawn("g", { class: `box${chosen ? " chosen" : ""}${row?.bad ? " bad" : ""}`, transform: `translate(${x} ${y})` },
    drawn("rect", { width: box.width, height: box.height, rx: 6 }),
    drawn("text", { class: "title", x: 10, y: 17 }, elided(says[0], room)), drawn("text", { class: "mono", x: 10, y: 33 }, elided(name ?? "", room)),
    drawn("text", { x: 10, y: 49 }, elided(says[1], room + 4)));
  if (!row || chosen) return made;
  const { place } = state.candidate, link = drawn("a", { href: address(place, row.row) }, made);
  link.addEventListener("click", (event) => { event.preventDefault(); visit(place, row.row); find("#layer").scrollIntoView({ block: "nearest" }); });
  return link;
}

/** The same tensor on the other targets. */
function elsewhere({ tensor }) {
  const others = candidates.filter((each) => each !== state.candidate && each.byTensor.has(tensor));
  if (!others.length) return [];
  const rows = others.map((each) => {
    const row = each.byTensor.get(tensor);
    const link = element("a", { href: address(each.place, row.row) }, element("bdi", {}, each.target));
    link.addEventListener("click", (event) => { event.preventDefault(); visit(each.place, row.row); });
    return [link, row.judged || "not to blame", number(row.local), number(row.floor), number(row.accumulated), number(row.max_abs)];
  });
  return [element("h4", {}, "On other targets"), plainTable("The same tensor on other targets", ["Target", "Judged", "Local", "Floor", "Accumulated", "Max |Δ|"], rows, 2)];
}
