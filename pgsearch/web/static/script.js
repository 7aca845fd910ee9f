// Sorting and filtering of tables, values of charts under pointer and arrow keys, copying, and
// how htmx renews what is live. Pages are whole without it.
"use strict";

const ready = (root) => {
  for (const table of within(root, "table.sortable")) makeSortable(table);
  for (const chart of within(root, ".chart[data-x]")) makeReadable(chart);
};

function within(root, selector) {
  const found = [...root.querySelectorAll(selector)];
  return root.matches && root.matches(selector) ? [root, ...found] : found;
}

// ------------------------------------------------------------ tables

function makeSortable(table) {
  const headers = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  headers.forEach((header, column) => {
    if (header.querySelector("button") || header.textContent.trim() === "") return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent.trim();
    header.replaceChildren(button);
    button.addEventListener("click", () => sortBy(table, headers, column));
  });
}

function sortBy(table, headers, column) {
  const isText = headers[column].classList.contains("text");
  const before = headers[column].getAttribute("aria-sort");
  const ascending = before ? before === "descending" : isText;
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [sortValue(row.cells[column], isText), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // what is missing comes last
    const order = isText ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
    return ascending ? order : -order;
  });
  body.append(...rows.map(([, row]) => row));
  for (const header of headers) header.removeAttribute("aria-sort");
  headers[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
}

function sortValue(cell, isText) {
  const shown = cell.textContent.trim();
  if (shown === "–") return null;
  if (isText) return shown;
  const number = Number.parseFloat(cell.dataset.value ?? shown);
  return Number.isNaN(number) ? null : number;
}

document.addEventListener("input", (event) => {
  const table = document.getElementById(event.target.dataset?.filters ?? "");
  if (!table) return;
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of table.tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  const count = document.getElementById(`${table.id}-count`);
  if (count) count.textContent = `${shown} of ${table.tBodies[0].rows.length} shown`;
});

// ------------------------------------------------------------ charts

function makeReadable(chart) {
  const x = JSON.parse(chart.dataset.x);
  const epochs = JSON.parse(chart.dataset.epochs);
  const svg = chart.querySelector("svg.plot");
  const cursor = chart.querySelector(".cursor");
  const at = chart.querySelector(".at");
  const outputs = [...chart.querySelectorAll("output")];
  const texts = outputs.map((output) => JSON.parse(output.dataset.texts));
  const lasts = outputs.map((output) => output.textContent);
  const resting = at.textContent;
  let place = -1;

  const show = (i) => {
    place = Math.min(Math.max(i, 0), x.length - 1);
    cursor.setAttribute("x1", x[place]);
    cursor.setAttribute("x2", x[place]);
    cursor.classList.add("on");
    at.textContent = `epoch ${epochs[place]}`;
    outputs.forEach((output, k) => { output.textContent = texts[k][place]; });
  };
  const rest = () => {
    place = -1;
    cursor.classList.remove("on");
    at.textContent = resting;
    outputs.forEach((output, k) => { output.textContent = lasts[k]; });
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const here = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const distances = x.map((value) => Math.abs(value - here));
    show(distances.indexOf(Math.min(...distances)));
  });
  svg.addEventListener("pointerleave", rest);
  svg.addEventListener("blur", rest);
  svg.addEventListener("keydown", (event) => {
    const from = place < 0 ? x.length : place;
    const to = { ArrowLeft: from - 1, ArrowRight: place + 1, Home: 0, End: x.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
}

// ------------------------------------------------------------ copying and choosing

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("button[data-copies]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(source);
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
});

document.addEventListener("change", (event) => {
  if (event.target.matches?.("form.choose select")) event.target.form.requestSubmit();
});

// ------------------------------------------------------------ the live page

document.addEventListener("htmx:beforeRequest", (event) => {
  const isPoll = event.detail.elt.hasAttribute("data-live");
  if (isPoll && document.hidden) event.preventDefault(); // nobody looks
});
document.addEventListener("htmx:load", (event) => ready(event.detail.elt));
if (typeof htmx === "undefined") ready(document);
