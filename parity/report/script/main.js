// Putting it together.

function choose(place) {
  const candidate = candidates.find((each) => each.place === place);
  if (!candidate) return;
  for (const detail of document.querySelectorAll(".detail")) detail.hidden = Number(detail.dataset.candidate) !== place;
  const empty = candidate.rows.length === 0;
  find("#layers").hidden = empty;
  find("#network").hidden = !candidate.rows.some(measured);
  find("#target").value = place;
  Object.assign(state, { candidate, selected: -1 });
  find("#layer").replaceChildren();
  if (!empty) {
    drawTools();
    arrange();
    filter();
  }
  if (!find("#network").hidden && !window.Plotly) sketchNetwork();
  drawFigures();
}

// -- addresses ---------------------------------------------------------------------------------------------------------

/** What the page's address says of a target, or of one of its layers: #target-1, #target-1/conv2d_3. */
const address = (place, row = null) => `#target-${place}${row === null ? "" : `/${encodeURIComponent(candidateAt(place).rows[row].tensor)}`}`;
const candidateAt = (place) => candidates.find((each) => each.place === place);

/** The target and the row that the address names: none where it names nothing that is here. */
function addressed() {
  const [, place, name] = /^#target-(\d+)(?:\/(.*))?$/s.exec(location.hash) ?? [];
  const candidate = candidateAt(Number(place));
  if (!candidate) return { place: null, row: null };
  try {
    return { place: candidate.place, row: candidate.byTensor.get(decodeURIComponent(name ?? ""))?.row ?? null };
  } catch { // written by hand
    return { place: candidate.place, row: null };
  }
}

/** Show a target, or a layer of it, and say so in the address, in an entry of its own unless it stands for the last. */
function visit(place, row = null, { reveal = false, instead = false } = {}) {
  if (place !== state.candidate?.place) choose(place);
  if (row !== null) select(row, { reveal });
  const wanted = address(place, row);
  if (location.hash !== wanted) history[instead ? "replaceState" : "pushState"](null, "", wanted);
}

/** Show what the address says, as it is on load and after Back. */
function follow() {
  const { place, row } = addressed();
  if (place === null && location.hash) return; // a part of the page that is there for every target
  const before = state.candidate?.place, wanted = place ?? report.focus;
  if (wanted !== before || (row === null && state.selected >= 0)) choose(wanted);
  if (row !== null && row !== state.selected) select(row, { reveal: true });
  else if (place !== null && place !== before) find(`#target-${place}`)?.scrollIntoView();
}

/** A link to a layer, which its address can be copied from. */
function leadTo(link, place, row) {
  link.href = address(place, row);
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // another window follows the address
    event.preventDefault();
    visit(place, row, { reveal: true });
  });
}

function listen() {
  find("#target").append(...candidates.map((each) => element("option", { value: each.place }, each.target)));
  find("#target").addEventListener("change", (event) => visit(Number(event.target.value)));
  find("label.target").hidden = candidates.length < 2;
  for (const { place, first } of candidates) {
    const links = (kind) => document.querySelectorAll(`.detail[data-candidate="${place}"] a[data-${kind}]`);
    for (const link of links("first")) leadTo(link, place, first);
    for (const link of links("row")) leadTo(link, place, Number(link.dataset.row));
  }
  for (const link of document.querySelectorAll("a[data-module]"))
    link.addEventListener("click", (event) => {
      event.preventDefault(); // the address keeps the target
      find("#search").value = find("#op").value = "";
      find("#only-bad").checked = false;
      find("#module").value = link.dataset.module && `=${link.dataset.module}`;
      filter();
      find("#layers").scrollIntoView();
    });
  find("#map-figure")?.addEventListener("change", drawMap);
  listenTable();
  addEventListener("hashchange", follow);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawFigures);
  // Paper shows what is folded away on the screen.
  const folded = () => document.querySelectorAll("details.words");
  let open = [];
  addEventListener("beforeprint", () => { open = [...folded()].filter((each) => each.open); folded().forEach((each) => { each.open = true; }); });
  addEventListener("afterprint", () => folded().forEach((each) => { each.open = open.includes(each); }));
}

/** plotly's script is large: it is touched when the answer, the table and the first figure are on screen. */
async function drawWithPlotly() {
  try {
    await loadPlotly();
    await drawFigures();
    document.body.dataset.drawn = "true";
  } catch (error) {
    find("#plot-note").textContent = `The figures cannot be explored (${error.message}); the table below holds the same figures.`;
  }
}

listen();
choose(report.focus);
// On a reload the address says where to, rather than how far the page was scrolled when its figures were there.
if (addressed().place !== null) history.scrollRestoration = "manual";
addEventListener("load", () => setTimeout(() => { history.scrollRestoration = "auto"; }));
follow();
if (find("[data-plot], #cost-plot, #history-plot, #ladder-plot") || candidates.some((each) => each.rows.some(measured)))
  requestAnimationFrame(() => setTimeout(drawWithPlotly));
else document.body.dataset.drawn = "true";
