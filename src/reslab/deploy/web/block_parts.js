// The parts of a block as images, x + λ F(x), with a slider for λ.

import { element } from "./elements.js";

const MAX_FACTOR = 2;
const STEP = 0.1;

/** The images of the open block and the slider that scales its branch in `ablation`. */
export function makeBlockParts(ablation) {
  let block = null;
  const value = element("output", { class: "factor" });
  const slider = element("input", {
    type: "range", min: 0, max: MAX_FACTOR, step: STEP, "aria-label": "Factor λ of the branch",
    oninput: () => { showFactor(); ablation.scale(block, Number(slider.value)); },
  });
  const reset = element("button", { type: "button", class: "button", onclick: () => { slider.value = 1; showFactor(); ablation.scale(block, 1); } }, "λ = 1");
  const [shortcut, branch, output] = ["shortcut", "branch", "output"].map((name) => element("img", { alt: `One feature map of the ${name}` }));
  const caption = element("p", { class: "note" });
  const images = element("div", { class: "parts" },
    part(shortcut, "x", "shortcut"), element("span", { "aria-hidden": "true" }, "+"), part(branch, "λ F(x)", "branch"), element("span", { "aria-hidden": "true" }, "→"), part(output, "x + λ F(x)", "output"));
  const control = element("label", { class: "factor-control" }, element("span", {}, "λ ", value), slider);
  const node = element("div", { class: "block-parts", hidden: true }, images, element("div", { class: "row" }, control, reset), caption);

  function showFactor() {
    value.textContent = Number(slider.value).toFixed(1);
  }

  /** Show the parts that `response` has of a block; without them, nothing. */
  function show(name, response) {
    const found = response?.parts;
    if (!found) node.hidden = node.hidden || name !== block || Boolean(response);
    block = name;
    slider.value = ablation.factor(name);
    showFactor();
    if (!found) return;
    node.hidden = false;
    Object.assign(shortcut, { src: found.shortcut });
    Object.assign(branch, { src: found.branch });
    Object.assign(output, { src: found.output });
    caption.textContent = `Feature map ${found.channel} in one gray scale. The shortcut carries x, the branch adds λ F(x); λ = 1 is the block as trained, 0 the shortcut alone.`;
  }

  return { node, show };
}

function part(image, formula, name) {
  return element("div", {}, image, element("b", {}, formula), element("span", { class: "note" }, name));
}
