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

function listen() {
  find("#target").append(...candidates.map((each) => element("option", { value: each.place }, each.target)));
  find("#target").addEventListener("change", (event) => choose(Number(event.target.value)));
  find("label.target").hidden = candidates.length < 2;
  for (const link of document.querySelectorAll("a[data-candidate]")) link.addEventListener("click", () => choose(Number(link.dataset.candidate)));
  for (const link of document.querySelectorAll("a[data-first]"))
    link.addEventListener("click", (event) => { event.preventDefault(); select(state.candidate.first, { reveal: true }); });
  for (const link of document.querySelectorAll("a[data-row]"))
    link.addEventListener("click", (event) => { event.preventDefault(); select(Number(link.dataset.row), { reveal: true }); });
  for (const link of document.querySelectorAll("a[data-module]"))
    link.addEventListener("click", () => {
      find("#search").value = find("#op").value = "";
      find("#only-bad").checked = false;
      find("#module").value = link.dataset.module && `=${link.dataset.module}`;
      filter();
    });
  find("#map-figure")?.addEventListener("change", drawMap);
  listenTable();
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
if (find("[data-plot], #cost-plot, #history-plot, #ladder-plot") || candidates.some((each) => each.rows.some(measured)))
  requestAnimationFrame(() => setTimeout(drawWithPlotly));
else document.body.dataset.drawn = "true";
