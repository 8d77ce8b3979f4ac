// The data: columns of figures become rows.

/**
 * One tensor. Figures are numbers (NaN and Infinity among them) or null; texts are strings or null.
 * @typedef {Object<string, number|string|null>} Row
 * The account is [label, op, share, row or null] a line, the curve [layers kept, error, multiply-adds, bytes] a point;
 * the fix is [layers kept, error]; portraits, by row, are what portraits.py made of record.Portrait.
 * @typedef {{place: number, target: string, first: number|null, called: string, rows: Row[], has: Set<string>, byTensor: Map<string, Row>,
 *            shares: Array[], curve: Array[], fix: number[], portraits: Object<number, Object>}} Candidate
 */

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
    row.ratio = over(row.implementation ?? row.local, row.floor);
    row.words = [row.tensor, row.node, row.op, row.source, row.module].join("\n").toLowerCase();
    row.bad = !row.passed && row.origin !== "inherited";
    row.judged = row.row === columns.first ? columns.called : row.bad ? row.origin || "bad" : row.origin || "";
  }
  const has = new Set(Object.keys(columns.figures).filter((name) => name !== "nonfinite" || rows.some((row) => row.nonfinite)));
  const { place, target, first, called, shares = [], curve = [], fix = [], portraits = {} } = columns;
  return { place, target, first, called, rows, has, portraits, byTensor: new Map(rows.map((row) => [row.tensor, row])),
           fix: fix.map(figure), curve: curve.map((point) => point.map(figure)),
           shares: shares.map(([label, op, share, row]) => [label, op, figure(share), row]) };
}

const report = JSON.parse(find("#data").textContent);
/** @type {Candidate[]} */
const candidates = report.candidates.map((columns) => decode(columns, report.strings));

/** Which tensors the node that makes a tensor reads, and whose nodes read it; of the tensors that the model names. */
const reads = new Map(report.reads.map(([tensor, ...read]) => [report.strings[tensor], read.map((each) => report.strings[each])]));
const readers = new Map();
for (const [tensor, read] of reads) {
  for (const each of read) {
    if (!readers.has(each)) readers.set(each, []);
    readers.get(each).push(tensor);
  }
}
