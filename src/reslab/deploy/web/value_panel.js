// The panel of a network that predicts numbers: the value of each target, and the heatmap of one.

import * as api from "./api.js";
import { attempt, clearAlert } from "./alerts.js";
import { element, formatNumber } from "./elements.js";
import { makeHeatmap } from "./heatmap.js";
import { makePanelNode } from "./panel_parts.js";
import { latest, inTurn } from "./requests.js";

const NO_ABLATION = { off: [], swap: [] };

/** The panel of `model`; `controls` are the heatmap controls shared by all panels. */
export function makeValuePanel(model, controls) {
  let image = null, info = {}, values = {}, selected = model.classes[0];
  const prediction = element("p", { class: "prediction", role: "status" });
  const heatmap = makeHeatmap();
  const rows = new Map(model.classes.map((name) => [name, makeRow(name, () => { selected = name; draw(); explain(); })]));
  const list = element("ul", { class: "values" }, [...rows.values()].map((row) => row.node));
  const fetchPrediction = latest((signal, blob) => api.predict(model.name, blob, signal));
  const fetchHeatmap = inTurn(() => api.explain(model.name, controls.method(), selected, NO_ABLATION, image));
  const result = element("div", { class: "result" }, heatmap.node, element("div", { class: "classes" }, list));
  const node = makePanelNode(model, [prediction, result]);

  /** Set another image. Rejects, without a change, if the network cannot read it. */
  async function setImage(blob, imageInfo) {
    if (!model.has_weights) return;
    const found = (await fetchPrediction(blob)).predictions[0];
    [image, info, values] = [blob, imageInfo, found.values];
    clearAlert();
    draw();
    await explain();
  }

  async function explain() {
    if (!image) return;
    heatmap.setBusy(true);
    const found = await attempt(fetchHeatmap);
    if (found) heatmap.show(found, "whose value they raise");
    heatmap.setBusy(false);
    heatmap.setOpacity(controls.opacity());
  }

  function draw() {
    for (const [name, row] of rows) row.set(values[name], name === selected);
    const text = image ? [element("b", {}, selected), " ", element("span", { class: "confidence" }, formatNumber(values[selected]))] : ["Waiting for an image."];
    const label = info.label ? [" ", element("span", { class: "note" }, `labeled ${info.label}`)] : [];
    prediction.replaceChildren(...text, ...label);
  }

  draw();
  return { node, model, setImage, explain, updateOpacity: () => heatmap.setOpacity(controls.opacity()) };
}

function makeRow(name, onSelect) {
  const value = element("span", { class: "value" });
  const button = element("button", { type: "button", class: "bar", title: `Show the heatmap for ${name}`, onclick: onSelect }, element("span", { class: "name" }, name), value);
  return {
    node: element("li", {}, button),
    set(number, isSelected) {
      value.textContent = number == null ? "" : formatNumber(number);
      button.setAttribute("aria-pressed", String(isSelected));
    },
  };
}
