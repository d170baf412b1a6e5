// How the network came to be: its curves, live while it trains, what it confuses, and its worst mistakes.

import * as api from "./api.js";
import { chart, keys } from "./chart.js";
import { makeConfusion } from "./confusion.js";
import { count, element, figure, keepingFocus } from "./elements.js";
import { fillGallery } from "./gallery.js";

const POLL_MILLISECONDS = 2000;

/** The runs of the chosen models; `onSample(model, row)` takes a test picture, `onFinished(model)` hears that a run has ended. */
export function makeRuns(place, onSample, onFinished) {
  let runs = [];

  /** Show the runs of these models; those that stay keep what is open in them. */
  function show(models) {
    const kept = runs.filter((run) => models.some((model) => same(model, run.model)));
    for (const run of runs) if (!kept.includes(run)) run.leave();
    runs = models.map((model) => kept.find((run) => same(model, run.model)) ?? makeRun(model, onSample, onFinished));
    keepingFocus(() => place.replaceChildren(...runs.map((run) => run.node)));
    place.classList.toggle("two", runs.length > 1);
  }

  return { show };
}

function same(one, other) {
  return one.name === other.name && one.finished === other.finished;
}

/** One run: it is asked for until all is there, or until it is left. */
function makeRun(model, onSample, onFinished) {
  const parts = { head: element("div"), curves: element("div", { class: "curves" }), judged: element("div", { class: "judged" }) };
  const body = element("div", { class: "run" }, parts.head, parts.curves, parts.judged);
  const node = element("section", { class: "panel", "aria-label": `The run of ${model.name}` }, element("h2", {}, `The run of ${model.name}`), body);
  const lines = [];
  let left = false;

  /** Ask, draw what is new, and ask again for as long as there is something to come. */
  async function poll() {
    if (left) return;
    const found = document.hidden ? null : await api.run(model.name, lines.length).catch((error) => ({ error }));
    if (left) return;
    if (found && !found.error) draw(found);
    else if (found) parts.head.replaceChildren(element("p", { class: "note" }, `Nothing new: ${found.error.message}`));
    if (found?.finished && !model.finished) onFinished(model);
    else if (!found?.finished || !found.evaluated) setTimeout(poll, POLL_MILLISECONDS);
  }

  function draw(found) {
    lines.push(...found.log);
    parts.head.replaceChildren(progress(found, lines));
    if (found.log.length) parts.curves.replaceChildren(...curves(lines));
    if (found.evaluated) parts.judged.replaceChildren(...judgement(model, found, onSample));
    else if (found.finished) parts.judged.replaceChildren(element("p", { class: "note" }, "Looking at the test images, for the confusions and mistakes …"));
  }

  if (model.has_run) poll();
  else body.replaceChildren(element("p", { class: "empty" }, `${model.name} is a file of weights alone. Serve the folder of its run to see its curves and mistakes.`));
  return { node, model, leave: () => { left = true; } };
}

function progress(found, lines) {
  const last = lines.findLast((line) => line.loss != null);
  const share = found.num_steps ? found.step / found.num_steps : 0;
  const steps = `step ${count(found.step)}${found.num_steps ? ` of ${count(found.num_steps)}` : ""}`;
  if (found.finished) return element("p", { class: "note" }, `Ended after ${count(found.step)} steps.`);
  const pill = element("span", { class: "live" }, "in training");
  const said = element("span", {}, `${steps}${last ? `, loss ${figure(last.loss)}` : ""}`);
  const bar = element("progress", { max: 1, value: share, "aria-label": "Steps done" });
  return element("div", { class: "row" }, pill, said, bar);
}

function curves(lines) {
  return [
    drawCurve(lines, "loss", "Loss", figure, {}),
    drawCurve(lines, "top1", "Share right", (value) => `${Math.round(100 * value)} %`, { high: 1 }),
  ].filter(Boolean);
}

function drawCurve(lines, key, title, format, ends) {
  const of = (kind) => lines.filter((line) => line.kind === kind && Number.isFinite(line[key])).map((line) => [line.epoch, line[key]]);
  const series = [{ kind: "one", name: "training", points: of("train"), dots: of("train").length === 1 }, { kind: "two", name: "held-out images", points: of("eval"), dots: true }];
  const drawnOnes = series.filter((one) => one.points.length);
  if (!drawnOnes.length) return null;
  const last = Math.max(...drawnOnes.flatMap((one) => one.points.map((point) => point[0])));
  const first = Math.min(...drawnOnes.flatMap((one) => one.points.map((point) => point[0])));
  const ticks = [[first, `epoch ${figure(first)}`], [last, figure(last)]].slice(0, first === last ? 1 : 2);
  const label = `${title}: ${drawnOnes.map((one) => `${one.name} ${format(one.points.at(-1)[1])} at the end`).join(", ")}`;
  return element("figure", {}, element("h3", {}, title), chart({ series: drawnOnes, label, format, ticks, ...ends }), keys(drawnOnes.map((one) => [one.kind, one.name])));
}

function judgement(model, found, onSample) {
  if (found.reason && !found.num_images) return [element("p", { class: "note" }, `No mistakes to show: ${found.reason}`)];
  const of = `of ${count(found.num_images)} test images`;
  const matrix = found.confusion_matrix ? makeConfusion(model, found, onSample) : element("p", { class: "note" }, found.reason);
  const parts = [element("div", {}, element("h3", {}, `What is taken for what, ${of}`), matrix)];
  if (found.misclassified.length) parts.push(element("div", {}, element("h3", {}, "Worst mistakes"), mistakes(model, found.misclassified, onSample)));
  return parts;
}

function mistakes(model, rows, onSample) {
  const node = element("ul", { class: "gallery" });
  fillGallery(node, model, rows, onSample);
  return node;
}
