"use strict";
// The page's own behaviour: sorting, filtering, drawing. Texts are only ever set as text, never as markup.

function sortBy(table, index, header) {
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const numeric = header.classList.contains("number") || header.textContent.trim() === "grade";
  const body = table.tBodies[0];
  const key = (row) => row.cells[index].dataset.value;
  const compare = (a, b) => {
    const x = key(a), y = key(b);
    // What was not measured comes last, whichever way the rest is sorted.
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    const order = numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
    return ascending ? order : -order;
  };
  body.append(...[...body.rows].sort(compare));
}

function wireTable(section) {
  const table = section.querySelector("table");
  if (!table) return;
  [...table.tHead.rows[0].cells].forEach((header, index) => {
    const button = header.querySelector("button");
    button.disabled = false;
    button.addEventListener("click", () => sortBy(table, index, header));
  });
  const tools = section.querySelector(".tools");
  const [filter, format, front, count] = [".filter", ".format", ".front", ".count"].map((name) => tools.querySelector(name));
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const hit = words.every((word) => row.dataset.words.includes(word))
        && (!format.value || row.dataset.format === format.value)
        && (!front.checked || row.dataset.marked !== undefined);
      row.hidden = !hit;
      shown += hit;
    }
    count.value = `${shown} of ${table.tBodies[0].rows.length} shown`;
  };
  for (const [element, kind] of [[filter, "input"], [format, "change"], [front, "change"]]) element.addEventListener(kind, apply);
  tools.hidden = false;
  apply();
}

function showRow(section, index) {
  for (const row of section.querySelectorAll("tbody tr")) {
    const wanted = row.dataset.index === String(index);
    row.classList.toggle("flash", wanted);
    if (wanted) row.scrollIntoView({ block: "center" });
  }
}

// plotly.js lies in the page gzipped: 2 MB instead of 5. It is unpacked here and runs only if its hash is in the policy.
async function loadLibrary() {
  const packed = Uint8Array.from(atob(document.getElementById("library").textContent), (char) => char.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  if (!window.Plotly) throw new Error("the plot library did not start");
}

async function draw() {
  await loadLibrary();
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const coarse = matchMedia("(pointer: coarse)").matches;
  const config = {
    responsive: true, displaylogo: false, displayModeBar: coarse ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };
  for (const place of document.querySelectorAll("[data-plot]")) {
    const figure = figures[place.dataset.plot];
    // A finger on a plot scrolls the page; a mouse zooms.
    const layout = { ...figure.layout, dragmode: coarse ? false : "zoom" };
    // On a narrow screen the labels of the front would cover it: there a touch on a point tells its name.
    if (place.clientWidth < 560) delete layout.annotations;
    await window.Plotly.newPlot(place, figure.data, layout, config);
    place.on("plotly_click", (event) => {
      const index = event.points[0].customdata;
      if (index !== undefined) showRow(place.closest("section"), index);
    });
  }
}

// A printed page is narrower than most screens, and a drawn plot does not know that.
const PRINT_WIDTH = 980;
function fitPlots(size) {
  for (const place of document.querySelectorAll(".js-plotly-plot")) window.Plotly.relayout(place, size);
}
addEventListener("beforeprint", () => fitPlots({ autosize: false, width: PRINT_WIDTH }));
addEventListener("afterprint", () => fitPlots({ autosize: true, width: null }));

for (const section of document.querySelectorAll("section.device")) wireTable(section);
draw().then(() => { document.documentElement.dataset.plots = "drawn"; }, (error) => {
  document.documentElement.dataset.plots = "failed";
  for (const place of document.querySelectorAll("[data-plot]")) {
    place.classList.add("failed");
    place.textContent = `This plot could not be drawn (${error.message}). The figures are in the tables.`;
  }
});
