// What speaks for a class, as colours over what the network sees.

import { element, keepingFocus } from "./elements.js";

export const METHODS = { "grad-cam": "Grad-CAM", occlusion: "Occlusion", "integrated-gradients": "Integrated gradients" };
// From nothing to much, dark to bright, told apart by colour-blind eyes too (inferno).
const COLOURS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

/** The picture as the network takes it, with a heat map over it. */
export function makeHeat() {
  const picture = element("img", { alt: "", hidden: true });
  const canvas = element("canvas", { "aria-hidden": "true" });
  const note = element("figcaption", { tabindex: "-1" }, "What the network sees will stand here.");
  const node = element("figure", { class: "seen" }, element("div", { class: "frame" }, picture, canvas), note);

  /** Show what was answered; `told` says in words which units that is of. */
  function show(answer, told) {
    picture.src = answer.image;
    picture.hidden = false;
    picture.alt = `The picture as the network sees it; the heat map marks what speaks for ${answer.class}.`;
    paint(canvas, answer.heatmap);
    say("What speaks for ", element("b", {}, answer.class), `, ${told}.`);
  }

  /** The map that is shown is of another state, and takes long: it is drawn when asked for. */
  function offer(again) {
    const act = () => { again(); say("Drawing it anew …"); };
    say("Of the units as they were before. ", element("button", { type: "button", class: "chip", onclick: act }, "Draw it anew"));
  }

  function say(...words) {
    keepingFocus(() => note.replaceChildren(...words), () => note);
  }

  function wait(waiting) {
    node.setAttribute("aria-busy", String(waiting));
  }

  /** How strongly the colours lie over the picture, 0 to 1. */
  function strength(value) {
    canvas.style.opacity = value;
  }

  return { node, offer, show, strength, wait };
}

function paint(canvas, heat) {
  canvas.height = heat.length;
  canvas.width = heat[0].length;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  heat.flat().forEach((value, i) => pixels.data.set(colour(value), 4 * i));
  context.putImageData(pixels, 0, 0);
}

/** Red, green, blue and how opaque: where nothing speaks the picture stays clear. */
export function colour(value) {
  const place = Math.min(Math.max(value, 0), 1) * (COLOURS.length - 1);
  const low = Math.min(Math.floor(place), COLOURS.length - 2);
  const mixed = COLOURS[low].map((from, i) => from + (place - low) * (COLOURS[low + 1][i] - from));
  return [...mixed, 255 * (0.3 + 0.7 * Math.min(Math.max(value, 0), 1))];
}

/** The method and the strength, for every network on the page; `onMethod()` and `onStrength()` hear of changes. */
export function makeHeatControls(onMethod, onStrength) {
  const options = Object.entries(METHODS).map(([value, name]) => element("option", { value }, name));
  const method = element("select", { id: "method", onchange: onMethod }, options);
  const slider = element("input", { id: "strength", type: "range", min: 0, max: 100, value: 55, oninput: onStrength });
  const node = element(
    "div",
    { class: "heat-controls" },
    element("label", {}, "Heat map ", method),
    element("label", {}, "Strength ", slider),
  );
  return { node, method: () => method.value, strength: () => slider.value / 100 };
}
