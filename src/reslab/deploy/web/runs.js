// The run of a network: training curves, live during training, the confusion matrix and the top losses.

import * as api from "./api.js";
import { chart, chartLegend } from "./chart.js";
import { makeConfusionMatrix } from "./confusion.js";
import { capitalize, formatCount, element, formatNumber, keepFocus } from "./elements.js";
import { fillGallery } from "./gallery.js";

const POLL_MILLISECONDS = 2000;

/** The runs of the selected models; a click on an evaluation image calls `onSample(model, row)`, the end of a run `onFinished(model)`. */
export function makeRuns(container, onSample, onFinished) {
  let runs = [];

  /** Show the runs of these models; runs that stay keep their open cell. */
  function show(models) {
    const existing = runs.filter((run) => models.some((model) => isSameState(model, run.model)));
    for (const run of runs) if (!existing.includes(run)) run.stop();
    runs = models.map((model) => existing.find((run) => isSameState(model, run.model)) ?? makeRun(model, onSample, onFinished));
    keepFocus(() => container.replaceChildren(...runs.map((run) => run.node)));
    container.classList.toggle("two", runs.length > 1);
  }

  return { show };
}

function isSameState(one, other) {
  return one.name === other.name && one.finished === other.finished;
}

/** One run, polled until it is complete or stopped. */
function makeRun(model, onSample, onFinished) {
  const parts = { head: element("div"), curves: element("div", { class: "curves" }), evaluation: element("div", { class: "run-evaluation" }) };
  const body = element("div", { class: "run" }, parts.head, parts.curves, parts.evaluation);
  const node = element("section", { class: "panel", "aria-label": `The run of ${model.name}` }, element("h2", {}, `The run of ${model.name}`), body);
  const records = [];
  let stopped = false;

  /** Request new records, draw them, and poll again until the run is finished and evaluated. */
  async function poll() {
    if (stopped) return;
    const run = document.hidden ? null : await api.run(model.name, records.length).catch((error) => ({ error }));
    if (stopped) return;
    if (run && !run.error) draw(run);
    else if (run) parts.head.replaceChildren(element("p", { class: "note" }, `No update: ${run.error.message}`));
    if (run?.finished && !model.finished) onFinished(model);
    else if (!run?.finished || !run.evaluated) setTimeout(poll, POLL_MILLISECONDS);
  }

  function draw(run) {
    records.push(...run.log);
    parts.head.replaceChildren(progress(run, records));
    if (run.log.length) parts.curves.replaceChildren(...curves(records, model.metric));
    if (run.evaluated) parts.evaluation.replaceChildren(...evaluationParts(model, run, onSample));
    else if (run.finished) parts.evaluation.replaceChildren(element("p", { class: "note" }, `Evaluating the ${model.eval_split} images …`));
  }

  if (model.has_run) poll();
  else body.replaceChildren(element("p", { class: "empty" }, `${model.name} is a weights file. Serve the folder of its run to see its training curves and errors.`));
  return { node, model, stop: () => { stopped = true; } };
}

function progress(run, records) {
  const last = records.findLast((record) => record.loss != null);
  const share = run.num_steps ? run.step / run.num_steps : 0;
  const steps = `step ${formatCount(run.step)}${run.num_steps ? ` of ${formatCount(run.num_steps)}` : ""}`;
  if (run.finished) return element("p", { class: "note" }, `Finished after ${formatCount(run.step)} steps.`);
  const pill = element("span", { class: "live" }, "in training");
  const text = element("span", {}, `${steps}${last ? `, loss ${formatNumber(last.loss)}` : ""}`);
  const bar = element("progress", { max: 1, value: share, "aria-label": "Steps done" });
  return element("div", { class: "row" }, pill, text, bar);
}

/** The curves; the split evaluated during training may be another than the one the weights are evaluated on. */
function curves(records, metric) {
  const split = records.find((record) => record.kind === "eval")?.split;
  const name = split === "val" ? "validation" : split;
  return [
    drawCurve(records, name, "loss", "Loss", formatNumber, {}),
    metric.is_fraction
      ? drawCurve(records, name, metric.name, capitalize(metric.title), (value) => `${Math.round(100 * value)} %`, { high: 1 })
      : drawCurve(records, name, metric.name, capitalize(metric.title), formatNumber, {}),
  ].filter(Boolean);
}

function drawCurve(records, split, key, title, format, limits) {
  const of = (kind) => records.filter((record) => record.kind === kind && Number.isFinite(record[key])).map((record) => [record.epoch, record[key]]);
  const series = [{ kind: "training", name: "training", points: of("train"), dots: of("train").length === 1 }, { kind: "evaluation", name: split, points: of("eval"), dots: true }];
  const visible = series.filter((one) => one.points.length);
  if (!visible.length) return null;
  const last = Math.max(...visible.flatMap((one) => one.points.map((point) => point[0])));
  const first = Math.min(...visible.flatMap((one) => one.points.map((point) => point[0])));
  const ticks = [[first, `epoch ${formatNumber(first)}`], [last, formatNumber(last)]].slice(0, first === last ? 1 : 2);
  const label = `${title}: ${visible.map((one) => `${one.name} ${format(one.points.at(-1)[1])} at the end`).join(", ")}`;
  return element("figure", {}, element("h3", {}, title), chart({ series: visible, label, format, ticks, ...limits }), chartLegend(visible.map((one) => [one.kind, one.name])));
}

function evaluationParts(model, run, onSample) {
  if (run.reason && !run.num_images) return [element("p", { class: "note" }, model.target === "class" ? `No evaluation: ${run.reason}` : `The results on the ${model.eval_split} images are in the run's report.html.`)];
  const of = `of ${formatCount(run.num_images)} ${model.eval_split} images`;
  const matrix = run.confusion_matrix ? makeConfusionMatrix(model, run, onSample) : element("p", { class: "note" }, run.reason);
  const parts = [element("div", {}, element("h3", {}, `Confusion matrix ${of}`), matrix)];
  if (run.misclassified.length) parts.push(element("div", {}, element("h3", {}, "Top losses"), misclassifiedGallery(model, run.misclassified, onSample)));
  return parts;
}

function misclassifiedGallery(model, rows, onSample) {
  const node = element("ul", { class: "gallery" });
  fillGallery(node, model, rows, onSample);
  return node;
}
