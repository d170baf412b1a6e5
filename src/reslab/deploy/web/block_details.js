// The details of one block: its layout and drawing, feature maps, response and gradient.

import * as api from "./api.js";
import { attempt } from "./alerts.js";
import { formatCount, element, formatNumber } from "./elements.js";
import { makeBlockParts } from "./block_parts.js";
import { shapeChanges } from "./network_diagram.js";

/** The details of a clicked block; `fetchDetails(name)` requests them under `ablation`, `onClose(name)` is called after closing. */
export function makeBlockDetails(model, fetchDetails, ablation, onClose) {
  const blocks = new Map(model.stages.flatMap((stage) => stage.blocks).map((block) => [block.name, block]));
  const explained = model.target === "boxes" ? "best box's score" : "top class";
  const title = element("h3", { tabindex: "-1" });
  const shape = element("div");
  const drawing = element("img", { class: "block-drawing", hidden: true });
  const body = element("div");
  const parts = makeBlockParts(ablation);
  const status = element("p", { class: "visually-hidden", role: "status" });
  const top = element("div", { class: "row between" }, element("div", {}, title, shape), element("button", { type: "button", class: "button", onclick: close }, "Close"));
  const node = element("section", { class: "block-details", hidden: true, "aria-label": `Block details of ${model.name}`, onkeydown: (event) => event.key === "Escape" && close() }, top, element("div", { class: "details" }, drawing, element("div", { class: "details-body" }, parts.node, body)), status);
  let openBlock = null;

  /** Open another block and move the focus to its name; Escape or Close returns the focus. */
  async function open(name) {
    openBlock = name;
    node.hidden = false;
    parts.show(name, null);
    if (title.textContent !== `Block ${name}`) body.replaceChildren(element("p", { class: "note" }, "The measurements appear once there is an image."));
    title.textContent = `Block ${name}`;
    shape.replaceChildren(...describeBlock(blocks.get(name)));
    title.focus({ preventScroll: true });
    showDrawing(name);
    const response = await refresh();
    if (!response) return;
    const described = facts(response, explained).map(([fact, value]) => `${fact.toLowerCase()} ${formatNumber(value)}`).join(", ");
    status.textContent = `Block ${name}: ${described}`;
    node.scrollIntoView({ block: "nearest" });
  }

  async function showDrawing(name) {
    const blob = await attempt(() => api.blockDrawing(model.name, name));
    if (!blob || openBlock !== name) return;
    URL.revokeObjectURL(drawing.src);
    Object.assign(drawing, { src: URL.createObjectURL(blob), alt: `Drawing of block ${name}: ${blocks.get(name).layout}`, hidden: false });
  }

  /** Update the open block after a change of image or ablation. Resolves to the response, or to null. */
  async function refresh() {
    if (!openBlock) return null;
    const name = openBlock;
    const ablationText = ablation.describe();
    body.setAttribute("aria-busy", "true");
    const response = await attempt(() => fetchDetails(name));
    if (openBlock !== name) return null;
    body.setAttribute("aria-busy", "false");
    parts.show(name, response);
    if (response) body.replaceChildren(...measures(response, ablationText, explained));
    return response;
  }

  function close() {
    const name = openBlock;
    openBlock = null;
    node.hidden = true;
    onClose(name);
  }

  return { node, open, refresh };
}

function describeBlock(block) {
  const shape = `${block.in_channels} channels in, ${block.output_shape[0]} out at ${block.output_shape[1]}×${block.output_shape[2]}`;
  const facts = [shape, ...shapeChanges(block), `${formatCount(block.params)} parameters`].filter(Boolean).join(" · ");
  return [element("p", { class: "layout" }, block.layout), element("p", { class: "note" }, facts)];
}

/** Return [name, value, meaning] of what was measured; the gradient is that of `explained`. */
function facts(response, explained) {
  return [
    ["Response", response.output_std, "standard deviation of the output"],
    ["Branch", response.branch_std, "standard deviation of the branch"],
    ["Shortcut", response.shortcut_std, "standard deviation of the shortcut"],
    ["Gradient", response.gradient_norm, `norm of the gradient of the ${explained} at the output`],
  ].filter(([, value]) => value != null);
}

function measures(response, ablationText, explained) {
  const tiles = facts(response, explained).map(([name, value, why]) => element("div", {}, element("dt", {}, name), element("dd", {}, formatNumber(value)), element("dd", { class: "note" }, why)));
  const maps = response.feature_maps.map((src, i) => element("img", { src, alt: `Feature map ${response.channels[i]}` }));
  const caption = `${maps.length} of ${response.output_shape[0]} feature maps, each scaled to its own range; ${ablationText}.`;
  return [element("dl", { class: "facts" }, tiles), element("figure", {}, element("div", { class: "maps" }, maps), element("figcaption", {}, caption))];
}
