// The panel of a detector: its boxes and masks over the image, from a lowest score, the heatmap of one, and which vanish
// without some blocks.

import * as api from "./api.js";
import { attempt, clearAlert } from "./alerts.js";
import { element } from "./elements.js";
import { makeAblation, makeAblationControls } from "./ablation.js";
import { boxCurve, makeAblationCurve } from "./ablation_curve.js";
import { makeBlockDetails } from "./block_details.js";
import { makeNetworkDiagram } from "./network_diagram.js";
import { paint } from "./heatmap.js";
import { paintMasks } from "./instance_masks.js";
import { makePanelNode } from "./panel_parts.js";
import { inTurn, latest, newest } from "./requests.js";

const MIN_OVERLAP = 0.5; // of the intersection in the union, from which two boxes are of one object
const MAX_LABELS = 20; // more would hide the image

/** The panel of `model`; `id` prefixes the ids of its elements. */
export function makeBoxPanel(model, controls, id) {
  const blocks = model.stages.flatMap((stage) => stage.blocks);
  const colors = new Map(model.classes.map((name, i) => [name, model.class_colors[i]]));
  let image = null, size = [1, 1], baseline = [], current = [], responses = [], selected = null, lastRequest = 0;

  const ablation = makeAblation(() => { draw(); lesion(); });
  const ablationControls = makeAblationControls(blocks, ablation);
  const fetchBlock = inTurn((name) => api.block(model.name, name, ablation.request(), image));
  const details = makeBlockDetails(model, async (name) => (image ? fetchBlock(name) : null), ablation, closeDetails);
  const network = makeNetworkDiagram(model, id, ablation.toggle, (name) => { network.open(name); details.open(name); });
  const fetchPrediction = latest((signal, blob) => api.detect(model.name, blob, signal));
  const fetchLesion = inTurn(() => api.lesion(model.name, ablation.request(), image));
  const fetchHeatmap = inTurn((box) => api.explainBox(model.name, box, ablation.request(), image));
  const startImage = newest(), startHeatmap = newest();

  const prediction = element("p", { class: "prediction", role: "status" }, "Waiting for an image.");
  const picture = element("img", { alt: "", hidden: true });
  const overlay = element("div", { class: "boxes", "aria-hidden": "true" });
  const masks = element("canvas", { class: "masks", "aria-hidden": "true", hidden: true });
  const heat = element("canvas", { class: "heat", "aria-hidden": "true", hidden: true });
  const frame = element("div", { class: "frame detected" }, picture, masks, heat, overlay);
  const caption = element("p", { class: "note", role: "status" });
  const minScore = element("input", { type: "range", min: 0, max: 100, value: 50, oninput: () => { draw(); explain(); }, onchange: () => image && curve.refresh(), "aria-label": `Lowest score of boxes of ${model.name}` });
  const curve = makeAblationCurve(model, boxCurve(() => minScore.value / 100));
  const scoreText = element("output", {}, "0.50");
  const slider = element("label", { class: "min-score" }, element("span", {}, "Lowest score ", scoreText), minScore);
  const list = element("ol", { class: "box-list", "aria-label": "Boxes" });
  const result = element("div", { class: "result detections" }, frame, element("div", { class: "classes" }, slider, list, caption));
  const blockParts = blocks.length
    ? [element("h3", {}, "Blocks of the backbone"), ablationControls.node, network.node, details.node, curve.node]
    : [element("p", { class: "note" }, "The blocks of an exported graph cannot be switched off.")];
  const node = makePanelNode(model, [prediction, result, ...blockParts]);

  function closeDetails(name) {
    network.open(null);
    node.querySelector(`[data-block="${name}"] .block`)?.focus();
  }

  /** Set another image. Rejects, without a change, if the network cannot read it. */
  async function setImage(blob) {
    if (!model.has_weights) return;
    const isNewest = startImage();
    const found = (await fetchPrediction(blob)).predictions[0];
    if (!isNewest()) return;
    const source = URL.createObjectURL(blob), loaded = new Image();
    loaded.src = source;
    await loaded.decode();
    if (!isNewest()) return URL.revokeObjectURL(source);
    if (picture.src.startsWith("blob:")) URL.revokeObjectURL(picture.src);
    picture.src = source;
    picture.hidden = false;
    [image, size, selected] = [blob, [loaded.naturalWidth, loaded.naturalHeight], null];
    baseline = current = found.boxes;
    clearAlert();
    draw();
    if (!blocks.length) return;
    await lesion();
    if (isNewest()) curve.setImage(image);
  }

  /** Detect with the current ablation. */
  async function lesion() {
    if (!image) return;
    const request = ++lastRequest, measured = image;
    node.classList.add("waiting");
    const found = await attempt(fetchLesion);
    if (found && image === measured) {
      clearAlert();
      ({ boxes: current, baseline_boxes: baseline, responses } = found);
      draw();
      explain();
    }
    if (request !== lastRequest) return;
    node.classList.remove("waiting");
    details.refresh();
  }

  /** Show the heatmap of the marked box; none of a box that is gone. */
  async function explain() {
    const isNewest = startHeatmap();
    [heat.hidden, caption.textContent] = [true, ""];
    const entry = entries()[selected];
    if (!entry || entry.isGone || !blocks.length) return;
    const [explained, box] = [image, entry.box];
    const found = await attempt(() => fetchHeatmap(current.indexOf(box)));
    if (!found || !isNewest() || image !== explained) return;
    paint(heat, found.heatmap);
    heat.hidden = false;
    caption.replaceChildren("Regions that support ", element("b", {}, `${found.class} ${formatScore(box.score)}`), " (Grad-CAM).");
    updateOpacity();
  }

  function updateOpacity() {
    heat.style.opacity = controls.opacity();
  }

  /** The boxes from the lowest score on, then those of the intact network that are gone. */
  function entries() {
    const lowest = minScore.value / 100;
    const shown = current.filter((box) => box.score >= lowest);
    const gone = baseline.filter((box) => box.score >= lowest && !shown.some((other) => isSameObject(box, other)));
    return [...shown.map((box) => ({ box, isGone: false })), ...gone.map((box) => ({ box, isGone: true }))];
  }

  function draw() {
    ablationControls.update();
    network.update(ablation, responses);
    scoreText.textContent = (minScore.value / 100).toFixed(2);
    if (!image) return;
    const all = entries();
    const [shown, gone] = [false, true].map((isGone) => all.filter((entry) => entry.isGone === isGone).map(({ box }) => box));
    if (selected >= all.length) selected = null;
    const hasLabels = all.length <= MAX_LABELS;
    // Those of higher score are drawn over others.
    overlay.replaceChildren(...all.map((entry, i) => drawBox(entry, i === selected, hasLabels)).reverse());
    list.replaceChildren(...all.map((entry, i) => listRow(entry, i)));
    masks.hidden = !shown.some((box) => box.segmentation);
    if (!masks.hidden) paintMasks(masks, shown.filter((box) => box.segmentation).reverse(), size, colors);
    prediction.replaceChildren(...summary(shown, gone));
    picture.alt = `The image with ${describe(shown)}`;
  }

  function drawBox({ box, isGone }, isSelected, hasLabel) {
    const [x1, y1, x2, y2] = box.box;
    const drawn = element("div", { class: `box${isGone ? " gone" : ""}${isSelected ? " selected" : ""}` });
    const sides = { left: x1 / size[0], top: y1 / size[1], width: (x2 - x1) / size[0], height: (y2 - y1) / size[1] };
    for (const [side, share] of Object.entries(sides)) drawn.style[side] = `${100 * share}%`;
    if (!isGone) drawn.style.setProperty("--class", colors.get(box.name));
    if (hasLabel || isSelected) drawn.append(element("span", { class: y1 / size[1] < 0.08 ? "inside" : "" }, `${box.name} ${formatScore(box.score)}`));
    return drawn;
  }

  function listRow({ box, isGone }, i) {
    const swatch = element("i", { class: "swatch", "aria-hidden": "true" });
    if (!isGone) swatch.style.background = colors.get(box.name);
    const corners = box.box.map((side) => Math.round(side)).join(", ");
    const onclick = () => { selected = selected === i ? null : i; draw(); list.children[i]?.firstChild.focus(); explain(); };
    const parts = [swatch, element("span", { class: "name" }, box.name), element("span", { class: "value" }, isGone ? `gone, was ${formatScore(box.score)}` : formatScore(box.score)), element("span", { class: "note corners" }, corners)];
    const button = element("button", { type: "button", class: "bar", "aria-pressed": String(i === selected), title: "x1, y1, x2, y2 in pixels. Click to mark the box and show what supports it.", onclick }, parts);
    return element("li", { class: isGone && "gone" }, button);
  }

  draw();
  return { node, model, setImage, explain, updateOpacity };
}

/** Return "7 boxes: 5 cat, 2 dog", and how many are gone. */
function summary(shown, gone) {
  const change = gone.length ? [" ", element("span", { class: "previous" }, `${gone.length} gone: ${describeClasses(gone)}`)] : [];
  return [element("b", {}, String(shown.length)), " ", shown.length === 1 ? "box" : "boxes", shown.length ? `: ${describeClasses(shown)}` : "", ...change];
}

function describe(boxes) {
  return boxes.length ? `${boxes.length} boxes: ${describeClasses(boxes)}` : "no box";
}

function describeClasses(boxes) {
  const counts = new Map();
  for (const box of boxes) counts.set(box.name, (counts.get(box.name) ?? 0) + 1);
  return [...counts].map(([name, count]) => `${count} ${name}`).join(", ");
}

/** Return whether two boxes are of one class and overlap by at least a half. */
function isSameObject(one, other) {
  if (one.name !== other.name) return false;
  const [a, b] = [one.box, other.box];
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const intersection = Math.max(width, 0) * Math.max(height, 0);
  return intersection >= MIN_OVERLAP * (area(a) + area(b) - intersection);
}

function area([x1, y1, x2, y2]) {
  return (x2 - x1) * (y2 - y1);
}

function formatScore(score) {
  return (score < 1 ? Math.min(score, 0.99) : 1).toFixed(2);
}
