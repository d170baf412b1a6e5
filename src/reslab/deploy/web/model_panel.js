// The panel of one network: its prediction, heatmap, blocks with switches, and ablation curve.

import * as api from "./api.js";
import { attempt, clearAlert } from "./alerts.js";
import { makeClassBars } from "./class_bars.js";
import { makeAblationCurve } from "./ablation_curve.js";
import { element, formatPercent } from "./elements.js";
import { makeHeatmap } from "./heatmap.js";
import { makePanelNode } from "./panel_parts.js";
import { latest, inTurn } from "./requests.js";
import { makeAblation, makeAblationControls } from "./ablation.js";
import { makeNetworkDiagram } from "./network_diagram.js";
import { makeBlockDetails } from "./block_details.js";

// A heatmap that took longer is not updated at every switch, because the switches would wait for it.
const SLOW_MILLISECONDS = 2500;

/** The panel of `model`; `controls` are the heatmap controls shared by all panels, `id` prefixes the ids of its elements. */
export function makeModelPanel(model, controls, id) {
  const blocks = model.stages.flatMap((stage) => stage.blocks);
  let image = null, info = {}, baseline = [], current = [], responses = [], selected = null, lastRequest = 0, slow = false;

  const ablation = makeAblation(() => { draw(); lesion(); });
  const prediction = element("p", { class: "prediction" });
  const status = element("p", { class: "visually-hidden", role: "status" });
  const thresholds = model.thresholds ? new Map(model.classes.map((name, i) => [name, model.thresholds[i]])) : null;
  const bars = makeClassBars((name) => { selected = name === selected ? null : name; draw(); explain(); }, thresholds);
  const heatmap = makeHeatmap();
  const ablationControls = makeAblationControls(blocks, ablation);
  const fetchBlock = inTurn((name) => api.block(model.name, name, ablation.request(), image));
  const details = makeBlockDetails(model, async (name) => (image ? fetchBlock(name) : null), ablation, (name) => { network.open(null); node.querySelector(`[data-block="${name}"] .block`)?.focus(); });
  const network = makeNetworkDiagram(model, id, ablation.toggle, (name) => { network.open(name); details.open(name); });
  const curve = makeAblationCurve(model);
  const fetchPrediction = latest((signal, blob) => api.predict(model.name, blob, signal));
  const fetchLesion = inTurn(() => api.lesion(model.name, ablation.request(), image));
  const fetchHeatmap = inTurn(() => api.explain(model.name, controls.method(), selected, ablation.request(), image));

  const result = element("div", { class: "result" }, heatmap.node, element("div", { class: "classes" }, bars.node, status));
  const blockParts = blocks.length
    ? [element("h3", {}, "Blocks"), ablationControls.node, network.node, details.node, curve.node]
    : [element("p", { class: "note" }, "This network has no residual blocks, so there is nothing to switch off.")];
  const parts = [prediction, result, ...blockParts];
  const node = makePanelNode(model, parts);

  /** Set another image. Rejects, without a change, if the network cannot read it. */
  async function setImage(blob, imageInfo) {
    if (!model.has_weights) return;
    const found = (await fetchPrediction(blob)).predictions[0];
    [image, info, baseline, current, selected] = [blob, imageInfo, found.classes, found.classes, null];
    clearAlert();
    draw();
    heatmap.setBusy(true);
    slow = false;
    await lesion();
    if (blocks.length) curve.setImage(image);
  }

  /** Predict with the current ablation; after the last change, also update heatmap and block details. */
  async function lesion() {
    if (!image) return;
    const request = ++lastRequest;
    node.classList.add("waiting");
    const found = await attempt(fetchLesion);
    if (found) {
      clearAlert();
      ({ baseline, classes: current, responses } = found);
      draw();
    }
    if (request !== lastRequest) return;
    node.classList.remove("waiting");
    if (found) status.textContent = `${model.name}: ${prediction.textContent}`;
    if (slow) heatmap.offerUpdate(explain);
    else explain();
    details.refresh();
  }

  async function explain() {
    if (!image) return;
    const [ablationText, started, explained] = [ablation.describe(), performance.now(), image];
    heatmap.setBusy(true);
    const found = await attempt(fetchHeatmap);
    if (image !== explained) return; // the heatmap of the new image follows its prediction
    if (!found) return heatmap.setBusy(false);
    slow = performance.now() - started > SLOW_MILLISECONDS;
    heatmap.show(found, ablationText);
    heatmap.setBusy(false);
    heatmap.setOpacity(controls.opacity());
  }

  function draw() {
    ablationControls.update();
    network.update(ablation, responses);
    bars.show(baseline, current, selected);
    prediction.replaceChildren(...(current.length ? describe() : ["Waiting for an image."]));
  }

  function describe() {
    if (thresholds) return describeLabels(namesAbove(baseline, thresholds), namesAbove(current, thresholds), info);
    return describePrediction(baseline[0], current[0], info, model.classes);
  }

  draw();
  return { node, model, setImage, explain, updateOpacity: () => heatmap.setOpacity(controls.opacity()) };
}

/** Return "cat 93.1 %", the intact network's prediction if it differs, and whether the label agrees. */
function describePrediction(before, after, info, classes) {
  const isCorrect = info.label == null || !classes.includes(info.label) ? null : after.name === info.label;
  const text = isCorrect ? "✓ correct" : `wrong: labeled ${info.label}`;
  const label = isCorrect == null ? [] : [element("span", { class: isCorrect ? "correct" : "wrong" }, text)];
  const same = before.name === after.name && Math.abs(before.probability - after.probability) < 5e-4;
  const previous = before.name === after.name ? `was ${formatPercent(before.probability)}` : `was ${before.name}, ${formatPercent(before.probability)}`;
  const change = same ? [] : [element("span", { class: "previous" }, previous)];
  return [element("b", {}, after.name), " ", element("span", { class: "confidence" }, formatPercent(after.probability)), " ", ...change, " ", ...label];
}

/** Return the names of the classes whose probability reaches their threshold. */
function namesAbove(classes, thresholds) {
  return classes.filter((score) => score.probability >= thresholds.get(score.name)).map((score) => score.name);
}

/** Return "cat, dog", the intact network's labels if they differ, and whether the labels of the image agree. */
function describeLabels(before, after, info) {
  const text = (names) => names.join(", ") || "no class";
  const isCorrect = info.label == null ? null : text([...after].sort()) === text(info.label.split(", ").filter((name) => name !== "no class").sort());
  const label = isCorrect == null ? [] : [element("span", { class: isCorrect ? "correct" : "wrong" }, isCorrect ? "✓ correct" : `labeled ${info.label}`)];
  const change = text([...before].sort()) === text([...after].sort()) ? [] : [element("span", { class: "previous" }, `was ${text(before)}`)];
  return [element("b", {}, text(after)), " ", ...change, " ", ...label];
}
