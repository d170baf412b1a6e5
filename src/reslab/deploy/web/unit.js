// One unit from near: what it does, its feature maps, how strongly it answers, how much depends on it.

import { attempt } from "./alerts.js";
import { count, element, figure } from "./elements.js";
import { changes } from "./network.js";

/** The panel of the unit that was clicked; `ask(name)` asks for it as the network stands, `plan` tells in words how that is, `onClose(name)` hears that it was put away. */
export function makeUnit(model, ask, plan, onClose) {
  const units = new Map(model.stages.flatMap((stage) => stage.blocks).map((unit) => [unit.name, unit]));
  const title = element("h3", { tabindex: "-1" });
  const facts = element("div");
  const body = element("div", { class: "inside-body" });
  const spoken = element("p", { class: "unseen", role: "status" });
  const top = element("div", { class: "row between" }, element("div", {}, title, facts), element("button", { type: "button", class: "button", onclick: close }, "Close"));
  const node = element("section", { class: "inside", hidden: true, "aria-label": `One unit of ${model.name}`, onkeydown: (event) => event.key === "Escape" && close() }, top, body, spoken);
  let shown = null;

  /** Look into another unit: the focus goes to its name, and comes back by Escape or Close. */
  async function open(name) {
    shown = name;
    node.hidden = false;
    if (title.textContent !== `Inside ${name}`) body.replaceChildren(element("p", { class: "note" }, "Its measures come with the picture."));
    title.textContent = `Inside ${name}`;
    facts.replaceChildren(...about(units.get(name)));
    title.focus({ preventScroll: true });
    const answer = await renew();
    if (!answer) return;
    spoken.textContent = `Response of ${name} ${figure(answer.output_std)}, branch ${figure(answer.branch_std)}, shortcut ${figure(answer.shortcut_std)}, gradient ${figure(answer.gradient_norm)}`;
    node.scrollIntoView({ block: "nearest" });
  }

  /** Show the open unit as it is now: another picture, or other units off. Resolves to what was shown, if anything. */
  async function renew() {
    if (!shown) return null;
    const name = shown;
    const told = plan.words();
    body.setAttribute("aria-busy", "true");
    const answer = await attempt(() => ask(name));
    if (shown !== name) return null;
    body.setAttribute("aria-busy", "false");
    if (answer) body.replaceChildren(...measures(answer, told));
    return answer;
  }

  function close() {
    const name = shown;
    shown = null;
    node.hidden = true;
    onClose(name);
  }

  return { node, open, renew };
}

function about(unit) {
  const shape = `${unit.in_channels} channels in, ${unit.output_shape[0]} out at ${unit.output_shape[1]}×${unit.output_shape[2]}`;
  const facts = [shape, ...changes(unit), `${count(unit.params)} parameters`].filter(Boolean).join(" · ");
  return [element("p", { class: "sentence" }, unit.layout), element("p", { class: "note" }, facts)];
}

function measures(answer, told) {
  const facts = [
    ["Response", answer.output_std, "spread of what it hands on"],
    ["Branch", answer.branch_std, "spread of what it computes"],
    ["Shortcut", answer.shortcut_std, "spread of what it lets pass"],
    ["Gradient", answer.gradient_norm, "how much the top class depends on it"],
  ].filter(([, value]) => value != null);
  const tiles = facts.map(([name, value, why]) => element("div", {}, element("dt", {}, name), element("dd", {}, figure(value)), element("dd", { class: "note" }, why)));
  const maps = answer.feature_maps.map((src, i) => element("img", { src, alt: `Feature map ${answer.channels[i]}` }));
  const caption = `${maps.length} of ${answer.output_shape[0]} feature maps, each in its own brightness; ${told}.`;
  return [element("dl", { class: "facts" }, tiles), element("figure", {}, element("div", { class: "maps" }, maps), element("figcaption", {}, caption))];
}
