// The heatmap of a class over the prepared image.

import { element, keepFocus } from "./elements.js";

export const METHODS = { "grad-cam": "Grad-CAM", occlusion: "Occlusion", "integrated-gradients": "Integrated gradients" };
// From low to high, dark to bright; distinguishable for color-blind readers (anchors of inferno).
const COLORS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

/** The prepared image with a heatmap over it. */
export function makeHeatmap() {
  const image = element("img", { alt: "", hidden: true });
  const canvas = element("canvas", { "aria-hidden": "true" });
  const caption = element("figcaption", { tabindex: "-1" }, "The prepared image appears here.");
  const node = element("figure", { class: "heatmap" }, element("div", { class: "frame" }, image, canvas), caption);

  /** Show the heatmap of a response; `ablationText` describes the ablation it belongs to. */
  function show(response, ablationText) {
    image.src = response.image;
    image.hidden = false;
    image.alt = `The prepared image; the heatmap marks the regions that support ${response.class}.`;
    paint(canvas, response.heatmap);
    setCaption("Regions that support ", element("b", {}, response.class), `, ${ablationText}.`);
  }

  /** Mark the heatmap as outdated and offer to update it, because updating is slow. */
  function offerUpdate(update) {
    const onclick = () => { update(); setCaption("Updating …"); };
    setCaption("Computed before the last change. ", element("button", { type: "button", class: "chip", onclick }, "Update"));
  }

  function setCaption(...children) {
    keepFocus(() => caption.replaceChildren(...children), () => caption);
  }

  function setBusy(waiting) {
    node.setAttribute("aria-busy", String(waiting));
  }

  /** Set the opacity of the heatmap, 0 to 1. */
  function setOpacity(value) {
    canvas.style.opacity = value;
  }

  return { node, offerUpdate, show, setOpacity, setBusy };
}

/** Paint a heatmap, rows of values from 0 to 1, into a canvas. */
export function paint(canvas, heatmap) {
  canvas.height = heatmap.length;
  canvas.width = heatmap[0].length;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  heatmap.flat().forEach((value, i) => pixels.data.set(color(value), 4 * i));
  context.putImageData(pixels, 0, 0);
}

/** Return red, green, blue and alpha of a value from 0 to 1; low values are transparent. */
export function color(value) {
  const position = Math.min(Math.max(value, 0), 1) * (COLORS.length - 1);
  const low = Math.min(Math.floor(position), COLORS.length - 2);
  const mixed = COLORS[low].map((from, i) => from + (position - low) * (COLORS[low + 1][i] - from));
  return [...mixed, 255 * (0.3 + 0.7 * Math.min(Math.max(value, 0), 1))];
}

/** The controls of method and opacity, shared by all networks; changes call `onMethod()` and `onOpacity()`. */
export function makeHeatmapControls(onMethod, onOpacity) {
  const options = Object.entries(METHODS).map(([value, name]) => element("option", { value }, name));
  const method = element("select", { id: "method", onchange: onMethod }, options);
  const slider = element("input", { id: "opacity", type: "range", min: 0, max: 100, value: 55, oninput: onOpacity });
  const methodLabel = element("label", {}, "Heatmap ", method);
  const opacityLabel = element("label", {}, "Opacity ", slider);
  const node = element(
    "div",
    { class: "heatmap-controls" },
    methodLabel,
    opacityLabel,
  );
  const show = (hasMethods, hasOpacity) => { [methodLabel.hidden, opacityLabel.hidden] = [!hasMethods, !hasOpacity]; };
  return { node, show, method: () => method.value, opacity: () => slider.value / 100 };
}
