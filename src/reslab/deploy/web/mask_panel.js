// The panel of a network that predicts each pixel: the mask over the image, and the share of each class.

import * as api from "./api.js";
import { clearAlert } from "./alerts.js";
import { element, formatPercent } from "./elements.js";
import { makePanelNode } from "./panel_parts.js";
import { latest } from "./requests.js";

/** The panel of `model`; `controls` hold the opacity, shared by all panels. */
export function makeMaskPanel(model, controls) {
  const prediction = element("p", { class: "prediction", role: "status" }, "Waiting for an image.");
  const image = element("img", { alt: "", hidden: true });
  const canvas = element("canvas", { "aria-hidden": "true" });
  const frame = element("div", { class: "frame mask" }, image, canvas);
  const legend = element("ul", { class: "mask-legend", "aria-label": "Classes in the mask" });
  const fetchPrediction = latest((signal, blob) => api.predict(model.name, blob, signal));
  const node = makePanelNode(model, [prediction, element("div", { class: "result masks" }, frame, legend)]);

  /** Set another image. Rejects, without a change, if the network cannot read it. */
  async function setImage(blob) {
    if (!model.has_weights) return;
    const found = (await fetchPrediction(blob)).predictions[0];
    clearAlert();
    if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(blob);
    image.hidden = false;
    const shares = Object.entries(found.shares);
    image.alt = `The image, ${shares.map(([name, share]) => `${formatPercent(share)} ${name}`).join(", ")}`;
    prediction.replaceChildren(element("b", {}, shares[0][0]), " ", element("span", { class: "confidence" }, formatPercent(shares[0][1])), " of the pixels");
    legend.replaceChildren(...shares.map(([name, share]) => legendRow(name, share, model)));
    await paint(canvas, found.mask, model.class_colors);
    updateOpacity();
  }

  function updateOpacity() {
    canvas.style.opacity = controls.opacity();
  }

  return { node, model, setImage, explain: () => {}, updateOpacity };
}

function legendRow(name, share, model) {
  const swatch = element("i", { class: "swatch", "aria-hidden": "true" });
  swatch.style.background = model.class_colors[model.classes.indexOf(name)] || "transparent";
  return element("li", {}, swatch, element("span", { class: "name" }, name), element("span", { class: "value" }, formatPercent(share)));
}

/** Draw a mask, a PNG in the palette of PASCAL VOC, in the colors of the classes; a class without color is transparent. */
async function paint(canvas, source, colors) {
  const mask = new Image();
  mask.src = source;
  await mask.decode();
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
