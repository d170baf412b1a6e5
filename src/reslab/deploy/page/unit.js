// One unit from near: what it does, its feature maps, how strongly it answers, how much depends on it.

import * as api from "./api.js";
import { attempt } from "./alerts.js";
import { count, element, figure } from "./elements.js";
import { oneByOne } from "./latest.js";
import { changes } from "./network.js";

/** The panel of the unit that was clicked; `onClose()` hears that it was put away. */
export function makeUnit(model, onClose) {
  const units = new Map(model.stages.flatMap((stage) => stage.units).map((unit) => [unit.name, unit]));
  const node = element("section", { class: "inside", hidden: true, "aria-live": "polite" });
  const ask = oneByOne((name, picture) => api.unit(model.name, name, picture));
  let shown = null;

  async function open(name, picture, asked = true) {
    shown = name;
    node.hidden = false;
    node.setAttribute("aria-busy", "true");
    if (node.dataset.unit !== name) node.replaceChildren(head(units.get(name), close));
    node.dataset.unit = name;
    const answer = picture && (await attempt(() => ask(name, picture)));
    node.setAttribute("aria-busy", "false");
    if (!answer || shown !== name) return;
    node.replaceChildren(head(units.get(name), close), ...body(answer));
    if (asked) node.scrollIntoView({ block: "nearest" });
  }

  function close() {
    const name = shown;
    shown = null;
    node.hidden = true;
    onClose(name);
  }

  return { node, open, take: (picture) => shown && open(shown, picture, false) };
}

function head(unit, close) {
  const shape = `${unit.in_channels} channels in, ${unit.output[0]} out at ${unit.output[1]}×${unit.output[2]}`;
  const facts = [shape, ...changes(unit), `${count(unit.params)} parameters`].filter(Boolean).join(" · ");
  return element("div", { class: "row between" },
    element("div", {}, element("h3", {}, `Inside ${unit.name}`), element("p", { class: "sentence" }, unit.sentence), element("p", { class: "note" }, facts)),
    element("button", { type: "button", class: "button", onclick: close }, "Close"));
}

function body(answer) {
  const facts = [
    ["Response", answer.response, "spread of what it hands on"],
    ["Branch", answer.branch, "spread of what it computes"],
    ["Shortcut", answer.shortcut, "spread of what it lets pass"],
    ["Gradient", answer.gradient, "how much the top class depends on it"],
  ].filter(([, value]) => value != null);
  const tiles = facts.map(([name, value, why]) => element("div", {}, element("dt", {}, name), element("dd", {}, figure(value)), element("dd", { class: "note" }, why)));
  const maps = answer.maps.map((src, i) => element("img", { src, alt: `Feature map ${i + 1} of ${answer.unit}` }));
  const told = `${maps.length} of ${answer.output[0]} feature maps, each in its own brightness; all units on.`;
  return [element("dl", { class: "facts" }, tiles), element("figure", {}, element("div", { class: "maps" }, maps), element("figcaption", {}, told))];
}
