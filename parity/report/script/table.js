// The layer table: only the rows in sight are drawn.

/** @type {{key: string, title: string, meaning: string, width: number, show?: function, optional?: boolean, off?: boolean}[]} */
const COLUMNS = [
  { key: "index", title: "#", meaning: "position of the node in topological order", width: 64, show: whole },
  { key: "tensor", title: "Tensor", meaning: "ONNX name", width: 260 },
  { key: "node", title: "Node", meaning: "name of the node that makes it", width: 220, off: true },
  { key: "op", title: "Op", meaning: "operator", width: 136 },
  { key: "source", title: "Source", meaning: "file and line that it was exported from", width: 200, off: true },
  { key: "module", title: "Module", meaning: "module of your code that it belongs to", width: 180, off: true },
  { key: "shape", title: "Shape", meaning: "shape on the target", width: 130, off: true },
  { key: "dtype", title: "Type", meaning: "element type on the target", width: 90, off: true },
  { key: "judged", title: "Judged", meaning: "what a bad tensor suffers from", width: 128 },
  { key: "share", title: "Share", meaning: "share of the output error", width: 84, show: percent, optional: true },
  { key: "energy", title: "Energy", meaning: "what this layer alone does to the output", width: 88, show: number, optional: true },
  { key: "local", title: "Local", meaning: "relative L2 error that the layer itself adds", width: 84, show: number },
  { key: "precision", title: "Format", meaning: "what the number format alone makes of these inputs", width: 92, show: number, optional: true },
  { key: "implementation", title: "Rest", meaning: "local error that the format does not explain: what the floor is for", width: 84, show: number, optional: true },
  { key: "floor", title: "Floor", meaning: "local error, or rest of it, that is accepted as rounding", width: 84, show: number },
  { key: "ratio", title: "× floor", meaning: "local error, less what the number format explains, over its floor", width: 84, show: number },
  { key: "accumulated", title: "Accumulated", meaning: "relative L2 error, everything upstream included", width: 122, show: number },
  { key: "max_abs", title: "Max |Δ|", meaning: "largest absolute difference", width: 92, show: number },
  { key: "sqnr_db", title: "SQNR dB", meaning: "signal to error ratio in decibels", width: 96, show: number },
  { key: "cosine", title: "Cosine", meaning: "cosine of the angle between both sides", width: 92, show: number, off: true },
  { key: "nonfinite", title: "Inf/NaN", meaning: "elements that are Inf or NaN on one side only", width: 84, show: whole, optional: true },
];

const ROW_HEIGHT = 32; // as --row in report.css
const MARGIN = 12; // rows drawn beyond either edge, so that a short scroll shows no gap
const PRINTED = 500; // rows that paper gets

const scroller = find("#scroller");
const body = find("#table tbody");
const state = { /** @type {Candidate|null} */ candidate: null, columns: COLUMNS, shown: [], sort: "index", down: false, selected: -1, settling: 0,
                hidden: new Set(COLUMNS.filter((column) => column.off).map((column) => column.key)) };

/** Missing values stay last; NaN counts as worse than infinity. */
function compare(a, b, down) {
  if (a == null || b == null) return (a == null) - (b == null);
  const order = typeof a === "string" ? (a < b ? -1 : a > b ? 1 : 0)
    : Number.isNaN(a) || Number.isNaN(b) ? Number.isNaN(a) - Number.isNaN(b) : a < b ? -1 : a > b ? 1 : 0;
  return down ? -order : order;
}

/** Columns that the candidate has figures for. */
const offered = () => COLUMNS.filter((column) => !column.optional || state.candidate.has.has(column.key));

/** The modules of the candidate's layers and all that these are in, with how many layers each has. */
function modulesOf(rows) {
  const counts = new Map();
  for (const { module } of rows)
    for (let end = module?.length ?? 0; end > 0; end = module.lastIndexOf(".", end - 1)) counts.set(module.slice(0, end), (counts.get(module.slice(0, end)) ?? 0) + 1);
  return counts;
}

const within = (row, module) => row.module != null && (row.module === module || row.module.startsWith(`${module}.`));

/** A choice of what the rows have, which keeps what was chosen where that is there still. */
function offer(select, every, counts) {
  const chosen = select.value, options = [...counts].sort(([a], [b]) => compare(a, b, false));
  select.replaceChildren(element("option", { value: "" }, every), ...options.map(([name, count]) => element("option", { value: `=${name}` }, `${name || "(none)"} (${whole(count)})`)));
  select.value = chosen;
  if (select.selectedIndex < 0) select.value = "";
}

/** What can be filtered by, and which columns there are, for the candidate in sight. */
function drawTools() {
  const counts = new Map();
  for (const { op } of state.candidate.rows) counts.set(op, (counts.get(op) ?? 0) + 1);
  offer(find("#op"), "every op", counts);
  const modules = modulesOf(state.candidate.rows);
  offer(find("#module"), "every module", modules);
  find("#module").parentElement.hidden = modules.size === 0;
  find("#columns").replaceChildren(...offered().map((column) => {
    const box = element("input", { type: "checkbox", checked: !state.hidden.has(column.key), disabled: column.key === "tensor" });
    box.addEventListener("change", () => {
      state.hidden[box.checked ? "delete" : "add"](column.key);
      arrange();
      drawHead();
      drawRows();
    });
    return element("label", { title: column.meaning }, box, ` ${column.title}`);
  }));
}

/** Take the columns that are wanted, and the room that they need. */
function arrange() {
  state.columns = offered().filter((column) => !state.hidden.has(column.key));
  find("#table").style.minWidth = `${state.columns.reduce((sum, column) => sum + column.width, 0)}px`;
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
    if (column.key !== "tensor") cell.style.width = `${column.width}px`; // which takes what is left
    if (state.sort === column.key) cell.ariaSort = state.down ? "descending" : "ascending";
    return cell;
  });
  const focused = [...find("#table thead tr").children].findIndex((cell) => cell.contains(document.activeElement));
  find("#table thead tr").replaceChildren(...cells);
  if (cells[focused]) find("button", cells[focused]).focus();
}

function filter() {
  const wanted = find("#search").value.trim().toLowerCase(), op = find("#op").value, module = find("#module").value.slice(1);
  const onlyBad = find("#only-bad").checked;
  const rows = state.candidate.rows;
  state.shown = rows.filter((row) => (!onlyBad || row.bad) && (!op || `=${row.op}` === op) && (!module || within(row, module)) && row.words.includes(wanted));
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
  const made = element("tr", { ariaRowIndex: place + 2, className: row.bad ? "bad" : "" }, ...cells);
  if (row.row === state.candidate.first) made.classList.add("first");
  if (row.row === state.selected) made.ariaCurrent = "true";
  made.addEventListener("click", () => visit(state.candidate.place, row.row));
  return made;
}

/** Mark a row, bring it into sight and say everything about it below the table. */
function select(row, { reveal = false } = {}) {
  state.selected = row;
  let place = state.shown.findIndex((shown) => shown.row === row);
  if (place < 0) {
    find("#search").value = find("#op").value = find("#module").value = "";
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

function move(event) {
  const page = Math.max(1, Math.floor(scroller.clientHeight / ROW_HEIGHT) - 2);
  const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
  if (step === undefined || event.target !== scroller || state.shown.length === 0) return;
  event.preventDefault();
  const now = state.shown.findIndex((row) => row.row === state.selected);
  const place = state.candidate.place, { row } = state.shown[Math.min(state.shown.length - 1, Math.max(0, now + step))];
  select(row);
  clearTimeout(state.settling); // browsers take so many addresses a second, and a key that is held down gives more
  state.settling = setTimeout(() => state.candidate.place === place && state.selected === row && visit(place, row, { instead: true }), 200);
}

/** A cell of CSV; a text that a spreadsheet would run as a formula gets an apostrophe, as in layers.csv. */
function csvCell(value, isFigure) {
  if (value == null) return "";
  if (isFigure) return Number.isFinite(value) ? String(value) : Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
  const text = /^[=+\-@'\t\r\n]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** What layers.csv says of a row, under its names and in its order, as far as the page knows it: with fewer digits. */
const truth = (value) => (value == null ? "" : value ? "true" : "false");
const said = (name) => (row) => csvCell(row[name], false);
const measures = (name) => (row) => csvCell(row[name], true);
const CSV = {
  target: () => csvCell(state.candidate.target, false), index: measures("index"), tensor: said("tensor"), node: said("node"),
  op: said("op"), source: said("source"), module: said("module"), dtype: said("dtype"),
  shape: (row) => (row.shape === "scalar" ? "" : row.shape.replaceAll("×", "x")), level: said("level"),
  passed: (row) => truth(row.passed), origin: said("origin"), first_bad: (row) => truth(row.row === state.candidate.first),
  floor: measures("floor"), local_over_floor: measures("ratio"), precision: measures("precision"),
  implementation: measures("implementation"), share: measures("share"), energy: measures("energy"),
  local_max_abs: measures("local_max_abs"), local_rel_l2: measures("local"), accumulated_max_abs: measures("max_abs"),
  accumulated_rel_l2: measures("accumulated"), accumulated_sqnr_db: measures("sqnr_db"), accumulated_cosine: measures("cosine"),
  accumulated_mismatched_nonfinite: measures("nonfinite"),
};

/** The rows that the filters leave, in a file of another name than layers.csv, which has all rows and figures. */
function download() {
  const lines = state.shown.map((row) => Object.values(CSV).map((cell) => cell(row)).join(","));
  const link = element("a", { download: `${report.model}-shown-rows.csv`,
    href: URL.createObjectURL(new Blob([[Object.keys(CSV).join(","), ...lines, ""].join("\n")], { type: "text/csv" })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function listenTable() {
  find("#search").addEventListener("input", filter);
  find("#op").addEventListener("change", filter);
  find("#module").addEventListener("change", filter);
  find("#only-bad").addEventListener("change", filter);
  find("#download").addEventListener("click", download);
  scroller.addEventListener("keydown", move);
  scroller.addEventListener("scroll", () => requestAnimationFrame(() => drawRows()), { passive: true });
  addEventListener("beforeprint", () => state.candidate && drawRows(true));
  addEventListener("afterprint", () => state.candidate && drawRows());
}
