// The diagram of a network: a box per block, its shortcut as an arc above, its switch below, grouped by stage.

import { formatCount, svgElement, element, formatNumber } from "./elements.js";

const MAX_SINGLE_LINE_BLOCKS = 24;
const BARS_HEIGHT = 30;

/** The diagram of `model`; clicks call `onSwitch(name)` and `onOpen(name)`. */
export function makeNetworkDiagram(model, id, onSwitch, onOpen) {
  const blocks = model.stages.flatMap((stage) => stage.blocks);
  const tiles = new Map(blocks.map((block) => [block.name, makeTile(block, id, onSwitch, onOpen)]));
  const stages = model.stages.map((stage) => makeStage(stage, tiles));
  if (!stages.length) return { node: element("div"), update: () => {}, open: () => {} };
  stages[0].querySelector(".blocks").prepend(makeEnd("in", "stem", model.stem));
  stages.at(-1).querySelector(".blocks").append(makeEnd("out", "head", model.head));
  const drawing = element("div", { ...diagramAttributes(model, blocks), role: "group", "aria-label": `Blocks of ${model.name}` }, stages);
  const node = element("div", {}, drawing, legend(blocks), reasons(blocks, id));

  /** Show which blocks are off or swapped, and each block's response. */
  function update(ablation, responses) {
    const maxStd = Math.max(...responses.flatMap((one) => [one.baseline, one.ablated]), 1e-12);
    const responseByBlock = new Map(responses.map((one) => [one.block, one]));
    const swapped = new Map(ablation.swaps.flatMap(([a, b]) => [[a, b], [b, a]]));
    for (const [name, tile] of tiles) tile.set(!ablation.off.has(name), responseByBlock.get(name), maxStd, swapped.get(name));
  }

  function open(name) {
    for (const [each, tile] of tiles) tile.open(each === name);
  }

  return { node, update, open };
}

/** Put a shallow network on one line, a deep one on a line per stage; `--n` is the number of blocks per line. */
function diagramAttributes(model, blocks) {
  // Two tiles are narrower than the name of a stage beside its shape.
  const isStacked = model.stages.some((stage) => stage.blocks.length <= 2);
  if (blocks.length <= MAX_SINGLE_LINE_BLOCKS) return { class: isStacked ? "network stacked" : "network", style: `--n:${blocks.length}` };
  return { class: "network many", style: `--n:${Math.max(...model.stages.map((stage) => stage.blocks.length))}` };
}

function makeStage(stage, tiles) {
  const [channels, height, width] = stage.blocks[0].output_shape;
  const blocks = stage.blocks.map((block) => tiles.get(block.name).node);
  const size = element("span", { class: "muted" }, ` ${channels} channels at ${height}×${width}`);
  return element("div", { class: "stage", role: "group", "aria-label": stage.name }, element("h4", {}, stage.name, size), element("div", { class: "blocks" }, blocks));
}

function makeEnd(side, name, layout) {
  const box = svgElement("svg", { viewBox: "0 0 60 92", "aria-hidden": "true" },
    svgElement("path", { class: "wire", d: side === "in" ? "M52 58H60" : "M0 58H8" }),
    svgElement("rect", { class: "end", x: 8, y: 36, width: 44, height: 44, rx: 5 }),
    svgElement("text", { x: 30, y: 62, "text-anchor": "middle" }, name));
  const title = layout || (name === "stem" ? "The first convolution" : "Average pooling and classifier");
  return element("div", { class: "end-tile", title }, box, element("span", { class: "visually-hidden" }, `${name}: ${title}`));
}

/** Return how the block changes the shape: its stride and widths. */
export function shapeChanges(block) {
  const widths = block.in_channels === block.out_channels ? "" : `${block.in_channels}→${block.out_channels}`;
  return [block.stride > 1 ? `stride ${block.stride}` : "", widths].filter(Boolean);
}

function hasShortcut(block) {
  return block.layout.split(" ").includes("+");
}

function makeTile(block, id, onSwitch, onOpen) {
  const short = block.name.split(".").at(-1);
  const baselineBar = element("i", { class: "baseline" });
  const currentBar = element("i", { class: "current" });
  const box = element("button", { type: "button", class: "block", "aria-expanded": "false", onclick: () => onOpen(block.name) }, element("span", { class: "responses", "aria-hidden": "true" }, baselineBar, currentBar));
  const toggle = makeSwitch(block, `${id}-why-${block.name}`, () => onSwitch(block.name));
  const label = element("span", { class: "short" }, short);
  const shape = element("span", { class: "change" }, shapeChanges(block).map((text) => element("span", {}, text)));
  const node = element("div", { class: "tile", "data-block": block.name }, wires(block), box, label, toggle, shape);
  node.classList.toggle("plain", !hasShortcut(block));

  function set(on, response, maxStd, partner) {
    toggle.setAttribute("aria-checked", String(on));
    node.classList.toggle("off", !on);
    node.classList.toggle("swapped", Boolean(partner));
    label.textContent = partner ? partner.split(".").at(-1) : short;
    baselineBar.style.height = `${(BARS_HEIGHT * (response?.baseline ?? 0)) / maxStd}px`;
    currentBar.style.height = `${(BARS_HEIGHT * (response?.ablated ?? 0)) / maxStd}px`;
    const parts = [block.name, partner && `with ${partner} in its place`, block.layout, response && `response ${formatNumber(response.ablated)}, with all blocks on ${formatNumber(response.baseline)}`];
    box.setAttribute("aria-label", parts.filter(Boolean).join("; "));
    box.title = `${parts.filter(Boolean).join("\n")}\n${formatCount(block.params)} parameters. Click for details.`;
  }
  return { node, set, open: (on) => { box.setAttribute("aria-expanded", String(on)); node.classList.toggle("opened", on); } };
}

/** Return the switch of a block; one that cannot be disabled gives the reason and stays reachable by keyboard. */
function makeSwitch(block, why, onSwitch) {
  const isFixed = !block.can_disable;
  return element("button", {
    type: "button",
    role: "switch",
    class: "switch",
    "aria-checked": "true",
    "aria-label": block.name,
    "aria-disabled": isFixed && "true",
    "aria-describedby": isFixed && why,
    title: isFixed ? `${block.name} stays on: ${block.reason}` : `Switch ${block.name} off or on`,
    onclick: () => isFixed || onSwitch(),
  }, element("i", { "aria-hidden": "true" }));
}

function wires(block) {
  const parts = [svgElement("path", { class: "wire", d: "M0 58H12" }), svgElement("path", { class: "wire through", d: "M12 58H18M66 58H73" })];
  if (hasShortcut(block)) {
    const kind = shapeChanges(block).length ? "arc changes" : "arc";
    parts.push(svgElement("path", { class: kind, d: "M10 58V22Q10 10 22 10H67Q79 10 79 22V52" }));
    parts.push(svgElement("circle", { class: "join", cx: 79, cy: 58, r: 6 }), svgElement("path", { class: "plus", d: "M79 55V61M76 58H82" }));
    parts.push(svgElement("path", { class: "wire", d: "M85 58H92" }));
  } else {
    parts.push(svgElement("path", { class: "wire through", d: "M73 58H92" }));
  }
  return svgElement("svg", { class: "wires", viewBox: "0 0 92 92", "aria-hidden": "true" }, parts);
}

function legend(blocks) {
  const arcs = blocks.some(hasShortcut);
  return element("p", { class: "note legend" },
    element("span", { class: "key baseline" }, "response with all blocks on"), element("span", { class: "key current" }, "current response"),
    arcs && element("span", {}, "The arc is the shortcut; dashed where it changes the shape."), element("span", {}, "Click a block for details."));
}

function reasons(blocks, id) {
  const fixedBlocks = blocks.filter((block) => !block.can_disable);
  if (!fixedBlocks.length) return null;
  const rows = fixedBlocks.map((block) => element("li", { id: `${id}-why-${block.name}` }, element("b", {}, block.name), ` stays on: ${block.reason}.`));
  return element("ul", { class: "note reasons" }, rows);
}
