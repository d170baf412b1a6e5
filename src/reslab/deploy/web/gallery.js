// Thumbnails of a run's validation or test images: one as a button, and a list of them with labels and predictions.

import * as api from "./api.js";
import { capitalize, element, formatPercent } from "./elements.js";

/** Return an image of a run as a button; the button is there even when the image cannot be loaded. */
export async function thumbnail(model, sample, onclick, text = sample.label) {
  const blob = await api.sample(model, sample.id).catch(() => null);
  const attributes = { class: "sample", type: "button", title: text, "data-id": sample.id, "aria-pressed": "false", onclick };
  const src = blob && URL.createObjectURL(blob);
  return element("button", { ...attributes, "aria-label": `${capitalize(sample.split)} image ${sample.id}, ${text}` }, element("img", { src, alt: "" }));
}

/** Fill `node` with images, their labels, predictions and probabilities; a click calls `onSample(model, row)`. */
export async function fillGallery(node, model, rows, onSample) {
  const items = await Promise.all(rows.map(async (row) => {
    const isCorrect = row.true === row.predicted;
    const text = isCorrect ? `${row.true}, predicted correctly` : `${row.true}, predicted as ${row.predicted}`;
    const sample = { ...row, split: model.eval_split, label: row.true };
    const button = await thumbnail(model.name, sample, () => onSample(model, sample), text);
    const caption = isCorrect ? [row.true] : [element("b", {}, row.predicted), ` not ${row.true}`];
    return element("li", {}, button, element("span", { class: "caption" }, caption), element("span", { class: "note" }, `${formatPercent(row.probability)}, loss ${row.loss.toFixed(2)}`));
  }));
  node.replaceChildren(...items);
}
