// The networks on the page: one, or two side by side on the same image.

import { makeBoxPanel } from "./box_panel.js";
import { makeMaskPanel } from "./mask_panel.js";
import { makeModelPanel } from "./model_panel.js";
import { makeValuePanel } from "./value_panel.js";
import { element, keepFocus } from "./elements.js";

// The panel of a network, by the form of its predictions.
const PANELS = { class: makeModelPanel, "multi-hot": makeModelPanel, values: makeValuePanel, mask: makeMaskPanel, boxes: makeBoxPanel };

/** The panels of the selected networks; `onModels(models)` is called with the selected one or two. */
export function makeComparison(models, heat, onModels) {
  const [first, second] = [document.getElementById("model"), document.getElementById("compare")];
  const container = document.getElementById("model-panels");
  let panels = [], current = null;
  const byName = (name) => models.find((model) => model.name === name);
  const chosen = () => [...new Set([first.value, second.value].filter(Boolean))].map(byName);
  const panelId = (model) => `panel-${models.indexOf(model)}`;
  for (const one of [first, second]) one.addEventListener("change", () => { render(); onModels(chosen()); });

  /** Show the selected panels; panels that stay keep their switches and results. */
  function render() {
    const existing = new Map(panels.map((panel) => [panel.model.name, panel]));
    panels = chosen().map((model) => existing.get(model.name) ?? PANELS[model.target](model, heat, panelId(model)));
    keepFocus(() => container.replaceChildren(...panels.map((panel) => panel.node)));
    container.classList.toggle("two", panels.length > 1);
    for (const panel of panels) if (current && !existing.has(panel.model.name)) panel.setImage(...current).catch(() => {});
  }

  /** Set the image of all panels. Rejects, without a change, if the first network cannot read it. */
  async function setImage(image, info) {
    const [panel, ...others] = panels;
    await panel.setImage(image, info);
    current = [image, info];
    await Promise.all(others.map((other) => other.setImage(image, info)));
  }

  /** Update the list of networks; panels whose run has finished or got its first weights since are recreated. */
  function updateModels(newModels) {
    const state = (model) => `${model?.finished} ${model?.has_weights}`;
    const changed = newModels.filter((model) => state(model) !== state(byName(model.name))).map((model) => model.name);
    models = newModels;
    panels = panels.filter((panel) => !changed.includes(panel.model.name));
    fillChoices(first, second, models);
    render();
  }

  fillChoices(first, second, models);
  render();
  return { setImage, updateModels, hasImage: () => current !== null, each: (action) => panels.forEach(action), models: chosen };
}

/** Fill both selects with the networks and keep their selection. */
function fillChoices(first, second, models) {
  const chosen = [first.value, second.value];
  const options = () => models.map((model) => element("option", { value: model.name }, model.finished ? model.name : `${model.name} (in training)`));
  first.replaceChildren(...options());
  second.replaceChildren(element("option", { value: "" }, "none"), ...options());
  second.disabled = models.length < 2;
  [first.value, second.value] = [chosen[0] || models[0].name, chosen[1]];
}
