// The confusion matrix: a row what it is, a column what it was taken for; a click shows the cell's pictures.

import * as api from "./api.js";
import { attempt } from "./alerts.js";
import { element } from "./elements.js";
import { fillGallery } from "./gallery.js";
import { latest } from "./latest.js";

const MOST_CLASSES = 40;
const MOST_SHOWN = 24;
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

let numTables = 0;

/** The matrix of `found`, or the most frequent confusions where it would have too many cells to click. */
export function makeConfusion(model, found, onSample) {
  const pictures = element("div", { class: "cell-pictures" });
  const spoken = element("p", { class: "unseen", role: "status" });
  const ask = latest((signal, cell) => api.confused(model.name, cell, signal));
  const open = async (i, j) => {
    const answer = await attempt(() => ask({ true: i, predicted: j }));
    if (answer) spoken.textContent = await showCell(pictures, model, found.classes, [i, j], answer.samples, onSample);
  };
  const drawing = found.classes.length > MOST_CLASSES ? makeList(found, open) : makeTable(model, found, open);
  return element("div", { class: "confusion" }, drawing, pictures, spoken);
}

/** Show the pictures of a cell; resolves to what that is in words. */
async function showCell(place, model, classes, [i, j], samples, onSample) {
  const told = i === j ? `${classes[i]}, rightly named` : `${classes[i]}, taken for ${classes[j]}`;
  const some = samples.length > MOST_SHOWN ? `, the first ${MOST_SHOWN}` : "";
  const gallery = element("ul", { class: "gallery" });
  await fillGallery(gallery, model, samples.slice(0, MOST_SHOWN), onSample);
  place.replaceChildren(element("h4", {}, `${told}: ${samples.length}${some}`), gallery);
  place.scrollIntoView({ block: "nearest" });
  return `${told}: ${samples.length} pictures`;
}

function makeTable(model, found, open) {
  const noteName = `matrix-note-${(numTables += 1)}`;
  const { classes, confusion_matrix: confusion } = found;
  const totals = confusion.map((row) => Math.max(row.reduce((a, b) => a + b, 0), 1));
  const cells = confusion.map((row, i) => row.map((n, j) => makeCell(n, n / totals[i], i === j, `${classes[i]} taken for ${classes[j]}: ${n}`, () => open(i, j))));
  cells[0][0].tabIndex = 0;
  const heads = classes.map((name) => element("th", { scope: "col" }, element("span", {}, name)));
  const rows = cells.map((row, i) => element("tr", {}, element("th", { scope: "row" }, element("span", {}, classes[i])), row.map((cell) => element("td", {}, cell))));
  const turned = classes.some((name) => name.length > 3) ? " turned" : "";
  const table = element("table", { class: `matrix${turned}`, style: `--n:${classes.length}`, "aria-describedby": noteName, "aria-label": `What ${model.name} takes for what` },
    element("thead", {}, element("tr", {}, element("td", {}, element("span", { class: "unseen" }, "is / taken for")), heads)), element("tbody", {}, rows));
  table.addEventListener("keydown", (event) => step(event, cells));
  const note = "Rows are what it is, columns what it was taken for. Click a cell to see its pictures; with the keyboard, move by the arrows.";
  return element("div", {}, element("div", { class: "scroll" }, table), element("p", { class: "note", id: noteName }, note));
}

function makeCell(n, share, right, label, onclick) {
  const facts = { type: "button", class: right ? "right" : "wrong", tabindex: "-1", "aria-label": label, title: label, onclick };
  // The root makes a handful among hundreds visible.
  return element("button", { ...facts, style: `--a:${n ? Math.round(100 * (0.12 + 0.88 * Math.sqrt(share))) : 0}%` }, n ? String(n) : "");
}

/** One stop of the tab key for the whole table; the arrows move inside. */
function step(event, cells) {
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

function makeList(found, open) {
  const pairs = found.confusion_matrix.flatMap((row, i) => row.map((n, j) => ({ n, i, j }))).filter((pair) => pair.n && pair.i !== pair.j);
  const worst = pairs.sort((a, b) => b.n - a.n).slice(0, MOST_SHOWN);
  const said = ({ n, i, j }) => `${found.classes[i]} taken for ${found.classes[j]}: ${n}`;
  return element("ul", { class: "chips" }, worst.map((pair) => element("li", {}, element("button", { type: "button", class: "chip", onclick: () => open(pair.i, pair.j) }, said(pair)))));
}
