// The confusion matrix, rows true and columns predicted; a click on a cell shows its images.

import * as api from "./api.js";
import { attempt } from "./alerts.js";
import { element } from "./elements.js";
import { fillGallery } from "./gallery.js";
import { latest } from "./requests.js";

const MAX_TABLE_CLASSES = 40;
const MAX_SHOWN = 24;
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

let numTables = 0;

/** Return the confusion matrix of `run`, or a list of the most frequent confusions for many classes. */
export function makeConfusionMatrix(model, run, onSample) {
  const images = element("div", { class: "cell-images" });
  const status = element("p", { class: "visually-hidden", role: "status" });
  const fetchCell = latest((signal, cell) => api.confusionCell(model.name, cell, signal));
  const open = async (i, j) => {
    const response = await attempt(() => fetchCell({ true: i, predicted: j }));
    if (response) status.textContent = await showCell(images, model, run.classes, [i, j], response.samples, onSample);
  };
  const matrix = run.classes.length > MAX_TABLE_CLASSES ? makeList(run, open) : makeTable(model, run, open);
  return element("div", { class: "confusion" }, matrix, images, status);
}

/** Show the images of a cell; resolves to a description of it. */
async function showCell(container, model, classes, [i, j], samples, onSample) {
  const title = i === j ? `${classes[i]}, predicted correctly` : `${classes[i]}, predicted as ${classes[j]}`;
  const limit = samples.length > MAX_SHOWN ? `, the first ${MAX_SHOWN}` : "";
  const gallery = element("ul", { class: "gallery" });
  await fillGallery(gallery, model, samples.slice(0, MAX_SHOWN), onSample);
  container.replaceChildren(element("h4", {}, `${title}: ${samples.length}${limit}`), gallery);
  container.scrollIntoView({ block: "nearest" });
  return `${title}: ${samples.length} images`;
}

function makeTable(model, run, open) {
  const noteName = `matrix-note-${(numTables += 1)}`;
  const { classes, confusion_matrix: matrix } = run;
  const totals = matrix.map((row) => Math.max(row.reduce((a, b) => a + b, 0), 1));
  const cells = matrix.map((row, i) => row.map((n, j) => makeCell(n, n / totals[i], i === j, `${classes[i]} predicted as ${classes[j]}: ${n}`, () => open(i, j))));
  cells[0][0].tabIndex = 0;
  const headers = classes.map((name) => element("th", { scope: "col" }, element("span", {}, name)));
  const rows = cells.map((row, i) => element("tr", {}, element("th", { scope: "row" }, element("span", {}, classes[i])), row.map((cell) => element("td", {}, cell))));
  const vertical = classes.some((name) => name.length > 3) ? " vertical" : "";
  const table = element("table", { class: `matrix${vertical}`, style: `--n:${classes.length}`, "aria-describedby": noteName, "aria-label": `Confusion matrix of ${model.name}` },
    element("thead", {}, element("tr", {}, element("td", {}, element("span", { class: "visually-hidden" }, "true / predicted")), headers)), element("tbody", {}, rows));
  table.addEventListener("keydown", (event) => moveFocus(event, cells));
  const note = "Rows are true classes, columns predicted classes. Click a cell to see its images; the arrow keys move between cells.";
  return element("div", {}, element("div", { class: "scroll" }, table), element("p", { class: "note", id: noteName }, note));
}

function makeCell(n, share, isCorrect, label, onclick) {
  const attributes = { type: "button", class: isCorrect ? "correct" : "wrong", tabindex: "-1", "aria-label": label, title: label, onclick };
  // The square root keeps a few images among hundreds visible.
  return element("button", { ...attributes, style: `--a:${n ? Math.round(100 * (0.12 + 0.88 * Math.sqrt(share))) : 0}%` }, n ? String(n) : "");
}

/** Move between cells by the arrow keys; the table is a single stop of the tab key. */
function moveFocus(event, cells) {
  const move = STEPS[event.key];
  const i = cells.findIndex((row) => row.includes(event.target));
  if (!move || i < 0) return;
  const j = cells[i].indexOf(event.target);
  const next = cells[i + move[0]]?.[j + move[1]];
  if (!next) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

function makeList(run, open) {
  const pairs = run.confusion_matrix.flatMap((row, i) => row.map((n, j) => ({ n, i, j }))).filter((pair) => pair.n && pair.i !== pair.j);
  const worst = pairs.sort((a, b) => b.n - a.n).slice(0, MAX_SHOWN);
  const text = ({ n, i, j }) => `${run.classes[i]} predicted as ${run.classes[j]}: ${n}`;
  return element("ul", { class: "chips" }, worst.map((pair) => element("li", {}, element("button", { type: "button", class: "chip", onclick: () => open(pair.i, pair.j) }, text(pair)))));
}
