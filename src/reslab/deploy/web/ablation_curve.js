// The ablation curve: the drop of the top class's probability with each block switched off alone, by depth.

import * as api from "./api.js";
import { attempt } from "./alerts.js";
import { chart } from "./chart.js";
import { element, keepFocus, formatPercent } from "./elements.js";
import { inTurn } from "./requests.js";

// Above these limits the curve takes seconds, which the switches would wait for, so it is measured on request only.
const MAX_AUTOMATIC_BLOCKS = 30;
const MAX_AUTOMATIC_PIXELS = 30 * 64 * 64;

/** The curve of `model` for the current image or for the run's validation or test images. */
export function makeAblationCurve(model) {
  const blocks = model.stages.flatMap((stage) => stage.blocks);
  const isFast = blocks.length <= MAX_AUTOMATIC_BLOCKS && blocks.length * model.input_size[1] * model.input_size[2] <= MAX_AUTOMATIC_PIXELS;
  let image = null;
  const container = element("div", { class: "curve-plot", tabindex: "-1" });
  const source = element("select", { "aria-label": "Measured on", onchange: () => measure() },
    element("option", { value: "image" }, "this image"), element("option", { value: "run" }, `the run's ${model.eval_split || "evaluation"} images`));
  const measureButton = element("button", { type: "button", class: "button", onclick: () => measure() }, `Measure all ${blocks.length} blocks`);
  const header = element("div", { class: "row between" }, element("h3", {}, "Drop in confidence with each block off alone"), source);
  const fetchCurve = inTurn(() => api.curve(model.name, source.value === "image" ? image : null));

  async function measure() {
    if (!image && source.value === "image") return;
    container.setAttribute("aria-busy", "true");
    const response = await attempt(fetchCurve);
    container.setAttribute("aria-busy", "false");
    if (response) keepFocus(() => container.replaceChildren(drawCurve(response.blocks, model)), () => container);
  }

  return {
    node: element("div", { class: "curve" }, header, container),
    container,
    setImage(blob) {
      image = blob;
      if (source.value === "run") return;
      if (isFast) measure();
      else container.replaceChildren(measureButton);
    },
  };
}

function drawCurve(blocks, model) {
  const rows = blocks.map((row, depth) => ({ ...row, depth })).filter((row) => row.confidence_drop != null);
  if (!rows.length) return element("p", { class: "note" }, "No block of this network can be switched off.");
  const points = rows.map((row) => [row.depth, row.confidence_drop]);
  const worst = rows.reduce((most, row) => (row.confidence_drop > most.confidence_drop ? row : most));
  const summary = `The confidence drops most without ${worst.block}: by ${formatPercent(worst.confidence_drop)}`;
  const drawing = chart({
    series: [{ kind: "ablated", points, dots: true }],
    label: `${summary}. ${rows.map((row) => `${row.block}: ${formatPercent(row.confidence_drop)}`).join(", ")}`,
    format: (value) => `${Math.round(100 * value)} %`.replace("-", "−"),
    ticks: stageTicks(blocks, model),
    span: [0, blocks.length - 1],
    low: 0,
    high: 0.1,
    tip: (_, i) => `without ${rows[i].block}: drop ${formatPercent(rows[i].confidence_drop)}`,
  });
  return element("figure", {}, drawing, element("figcaption", {}, `${summary}.`));
}

/** Return a tick at the first block of each stage. */
function stageTicks(blocks, model) {
  return model.stages.map((stage) => [blocks.findIndex((row) => row.block === stage.blocks[0].name), stage.name]);
}
