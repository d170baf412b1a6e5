// The ablation curve: with each block switched off alone, by depth, the drop of the top class's probability, or the
// share of a detector's boxes that are gone.

import * as api from "./api.js";
import { attempt } from "./alerts.js";
import { chart } from "./chart.js";
import { element, keepFocus, formatPercent } from "./elements.js";
import { inTurn } from "./requests.js";

// Above these limits the curve takes seconds, which the switches would wait for, so it is measured on request only.
const MAX_AUTOMATIC_BLOCKS = 30;
const MAX_AUTOMATIC_PIXELS = 30 * 64 * 64;

const CONFIDENCE = {
  title: "Drop in confidence with each block off alone",
  value: (row) => row.confidence_drop,
  summarize: (block, text) => `The confidence drops most without ${block}: by ${text}`,
  describe: (text) => `drop ${text}`,
  query: () => ({}),
};

/** The curve of a detector; `lowest()` returns the lowest score of the boxes to follow. */
export const boxCurve = (lowest) => ({
  title: "Boxes gone with each block off alone",
  value: (row) => (row.agreement == null ? null : 1 - row.agreement),
  summarize: (block, text) => `Most boxes are gone without ${block}: ${text}`,
  describe: (text) => `${text} gone`,
  query: () => ({ min_score: lowest() }),
});

/** The curve of `model` for the current image or for the validation or test images of its run. */
export function makeAblationCurve(model, measure = CONFIDENCE) {
  const blocks = model.stages.flatMap((stage) => stage.blocks);
  const isFast = blocks.length <= MAX_AUTOMATIC_BLOCKS && blocks.length * model.input_size[1] * model.input_size[2] <= MAX_AUTOMATIC_PIXELS;
  let image = null;
  const container = element("div", { class: "curve-plot", tabindex: "-1" });
  const source = element("select", { "aria-label": "Measured on", onchange: () => update() },
    element("option", { value: "image" }, "this image"), element("option", { value: "run" }, `the run's ${model.eval_split || "evaluation"} images`));
  const measureButton = element("button", { type: "button", class: "button", onclick: () => update() }, `Measure all ${blocks.length} blocks`);
  const header = element("div", { class: "row between" }, element("h3", {}, measure.title), model.has_run && source);
  const fetchCurve = inTurn(() => api.curve(model.name, source.value === "image" ? image : null, measure.query()));

  async function update() {
    if (!image && source.value === "image") return;
    container.setAttribute("aria-busy", "true");
    const response = await attempt(fetchCurve);
    container.setAttribute("aria-busy", "false");
    if (response) keepFocus(() => container.replaceChildren(drawCurve(response.blocks, model, measure)), () => container);
  }

  /** Measure again, or offer to, after another image or lowest score. */
  function refresh() {
    if (isFast) update();
    else container.replaceChildren(measureButton);
  }

  return {
    node: element("div", { class: "curve" }, header, container),
    container,
    refresh,
    setImage(blob) {
      image = blob;
      if (source.value === "image") refresh();
    },
  };
}

function drawCurve(blocks, model, measure) {
  const rows = blocks.map((row, depth) => ({ ...row, depth, value: measure.value(row) })).filter((row) => row.value != null);
  if (!rows.length) return element("p", { class: "note" }, `Nothing can be measured: ${blocks[0].reason}.`);
  const points = rows.map((row) => [row.depth, row.value]);
  const worst = rows.reduce((most, row) => (row.value > most.value ? row : most));
  const summary = measure.summarize(worst.block, formatPercent(worst.value));
  const drawing = chart({
    series: [{ kind: "ablated", points, dots: true }],
    label: `${summary}. ${rows.map((row) => `${row.block}: ${formatPercent(row.value)}`).join(", ")}`,
    format: (value) => `${Math.round(100 * value)} %`.replace("-", "−"),
    ticks: stageTicks(blocks, model),
    span: [0, blocks.length - 1],
    low: 0,
    high: 0.1,
    tip: (_, i) => `without ${rows[i].block}: ${measure.describe(formatPercent(rows[i].value))}`,
  });
  return element("figure", {}, drawing, element("figcaption", {}, `${summary}.`));
}

/** Return a tick at the first block of each stage. */
function stageTicks(blocks, model) {
  return model.stages.map((stage) => [blocks.findIndex((row) => row.block === stage.blocks[0].name), stage.name]);
}
