// The panel of a network that predicts each pixel: the mask over the image, the share of each class, and its heatmap.

import * as api from "./api.js";
import { attempt, clearAlert } from "./alerts.js";
import { element, formatPercent } from "./elements.js";
import { paint as paintHeatmap } from "./heatmap.js";
import { makePanelNode } from "./panel_parts.js";
import { inTurn, latest, newest } from "./requests.js";

/** The panel of `model`; `controls` hold the opacity, shared by all panels. */
export function makeMaskPanel(model, controls) {
  const prediction = element("p", { class: "prediction", role: "status" }, "Waiting for an image.");
  const image = element("img", { alt: "", hidden: true });
  const canvas = element("canvas", { "aria-hidden": "true" });
  const frame = element("div", { class: "frame mask" }, image, canvas);
  const legend = element("ul", { class: "mask-legend", "aria-label": "Classes in the mask" });
  const fetchPrediction = latest((signal, blob) => api.predict(model.name, blob, signal));
  const caption = element("p", { class: "note", role: "status" });
  const node = makePanelNode(model, [prediction, element("div", { class: "result masks" }, frame, legend, caption)]);
  const startImage = newest();
  const fetchHeatmap = inTurn((name) => api.explainMask(model.name, name, blob));
  let blob = null, answer = null, selected = null;

  /** Set another image. Rejects, without a change, if the network cannot read it. */
  async function setImage(newBlob) {
    if (!model.has_weights) return;
    const isNewest = startImage();
    const found = (await fetchPrediction(newBlob)).predictions[0];
    if (!isNewest()) return;
    clearAlert();
    [blob, answer, selected] = [newBlob, found, null];
    if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(blob);
    image.hidden = false;
    const shares = Object.entries(found.shares);
    image.alt = `The image, ${shares.map(([name, share]) => `${formatPercent(share)} ${name}`).join(", ")}`;
    prediction.replaceChildren(element("b", {}, shares[0][0]), " ", element("span", { class: "confidence" }, formatPercent(shares[0][1])), " of the pixels");
    legend.replaceChildren(...shares.map(([name, share]) => legendRow(name, share, model, selected, model.has_layers && select)));
    caption.textContent = "";
    await showMask();
  }

  async function showMask() {
    const mask = await readMask(answer.mask);
    if (mask.source !== answer.mask || selected) return;
    frame.setAttribute("aria-busy", "false"); // of a heatmap that is no longer requested
    paintMask(canvas, mask, model.class_colors);
    canvas.classList.remove("heat");
    updateOpacity();
  }

  /** Show the heatmap of a class, or the mask again if it is shown. */
  async function select(name) {
    selected = selected === name ? null : name;
    for (const row of legend.querySelectorAll("button")) row.setAttribute("aria-pressed", String(row.dataset.class === selected));
    caption.textContent = "";
    if (!selected) return showMask();
    await explain();
  }

  async function explain() {
    if (!selected) return;
    const [name, explained] = [selected, blob];
    frame.setAttribute("aria-busy", "true");
    const found = await attempt(() => fetchHeatmap(name));
    if (explained !== blob || name !== selected) return;
    frame.setAttribute("aria-busy", "false");
    if (!found) return;
    paintHeatmap(canvas, found.heatmap);
    canvas.classList.add("heat");
    caption.replaceChildren("Regions that support ", element("b", {}, found.class), " (Grad-CAM).");
    updateOpacity();
  }

  function updateOpacity() {
    canvas.style.opacity = controls.opacity();
  }

  return { node, model, setImage, explain, updateOpacity };
}

/** A class with its color and share; with `select` a button that shows its heatmap. */
function legendRow(name, share, model, selected, select) {
  const swatch = element("i", { class: "swatch", "aria-hidden": "true" });
  swatch.style.background = model.class_colors[model.classes.indexOf(name)] || "transparent";
  const parts = [swatch, element("span", { class: "name" }, name), element("span", { class: "value" }, formatPercent(share))];
  if (!select) return element("li", {}, ...parts);
  const title = "Show the regions that support this class, or the mask again.";
  const button = element("button", { type: "button", class: "bar", "data-class": name, "aria-pressed": String(name === selected), title, onclick: () => select(name) }, parts);
  return element("li", {}, button);
}

async function readMask(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return { source, image };
}

/** Draw a mask, a PNG in the palette of PASCAL VOC, in the colors of the classes; a class without color is transparent. */
function paintMask(canvas, { image: mask }, colors) {
  [canvas.width, canvas.height] = [mask.naturalWidth, mask.naturalHeight];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(mask, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const painted = new Map(colors.map((color, number) => [vocColor(number), rgba(color)]));
  for (let i = 0; i < pixels.data.length; i += 4) {
    const [red, green, blue] = pixels.data.subarray(i, i + 3);
    pixels.data.set(painted.get((red << 16) | (green << 8) | blue) ?? [0, 0, 0, 0], i);
  }
  context.putImageData(pixels, 0, 0);
}

/** Return the color of a number in PASCAL VOC's palette: its bits 0, 1, 2 are the high bits of red, green and blue. */
function vocColor(number) {
  const channels = [0, 0, 0];
  for (let shift = 7, rest = number; rest > 0; shift -= 1, rest >>= 3) [0, 1, 2].forEach((bit) => { channels[bit] |= ((rest >> bit) & 1) << shift; });
  return (channels[0] << 16) | (channels[1] << 8) | channels[2];
}

function rgba(color) {
  return color ? [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16)).concat(255) : [0, 0, 0, 0];
}
