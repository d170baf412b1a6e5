// What the panels of all tasks have: their heading, and what they show before a run has weights.

import { formatCount, element, formatNumber, formatPercent } from "./elements.js";

/** The panel of a model with these parts, or with a note while it has no weights. */
export function makePanelNode(model, parts) {
  return element("section", { class: "panel model-panel", "aria-label": `The network ${model.name}` }, heading(model), ...(model.has_weights ? parts : [waiting(model)]));
}

/** Format a value of the model's metric: "93.1 % accuracy", "mean absolute error 0.42". */
export function formatMetric(metric, value) {
  return metric.is_fraction ? `${formatPercent(value)} ${metric.title}` : `${metric.title} ${formatNumber(value)}`;
}

function heading(model) {
  const value = model.metrics?.[model.metric.name];
  const score = value != null ? `${formatMetric(model.metric, value)} on the ${model.eval_split || "evaluation"} images` : "";
  const training = model.checkpoint_step != null ? `in training, weights of step ${formatCount(model.checkpoint_step)}` : "";
  const facts = [model.arch, model.depth && `${model.depth} layers`, model.params && `${formatCount(model.params)} parameters`, score, training];
  const problem = model.problem && element("p", { class: "note" }, model.problem);
  return element("div", {}, element("h2", {}, model.name), element("p", { class: "note" }, facts.filter(Boolean).join(" · ")), problem);
}

function waiting(model) {
  return element("p", { class: "empty" }, `${model.name} is still in training. Its training curves are below; predictions are available after its first checkpoint.`);
}
