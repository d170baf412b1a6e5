// The network drawn as its stages and units: boxes on a line, the shortcut as an arc over each, a switch under it.

import { count, drawn, element, figure } from "./elements.js";

const MANY_UNITS = 24;
const BARS_HEIGHT = 30;

/** The drawing of `model`; `onSwitch(name)` and `onOpen(name)` hear of clicks. */
export function makeNetwork(model, id, onSwitch, onOpen) {
  const units = model.stages.flatMap((stage) => stage.blocks);
  const tiles = new Map(units.map((unit) => [unit.name, makeTile(unit, id, onSwitch, onOpen)]));
  const stages = model.stages.map((stage) => makeStage(stage, tiles));
  stages[0].querySelector(".units").prepend(end("in", "stem", model.stem));
  stages.at(-1).querySelector(".units").append(end("out", "head", model.head));
  const drawing = element("div", { ...line(model, units), role: "group", "aria-label": `Units of ${model.name}` }, stages);
  const node = element("div", {}, drawing, legend(units), reasons(units, id));

  /** Draw what is off, what has changed places, and how strongly each unit responds. */
  function update(plan, responses) {
    const most = Math.max(...responses.flatMap((one) => [one.baseline, one.ablated]), 1e-12);
    const byUnit = new Map(responses.map((one) => [one.block, one]));
    const guests = new Map(plan.swaps.flatMap(([a, b]) => [[a, b], [b, a]]));
    for (const [name, tile] of tiles) tile.set(!plan.off.has(name), byUnit.get(name), most, guests.get(name));
  }

  function open(name) {
    for (const [each, tile] of tiles) tile.open(each === name);
  }

  return { node, update, open };
}

/** A short network stands on one line, a deep one has a line a stage; `--n` is how many units a line has. */
function line(model, units) {
  if (units.length <= MANY_UNITS) return { class: "network", style: `--n:${units.length}` };
  return { class: "network many", style: `--n:${Math.max(...model.stages.map((stage) => stage.blocks.length))}` };
}

function makeStage(stage, tiles) {
  const [channels, height, width] = stage.blocks[0].output_shape;
  const units = stage.blocks.map((unit) => tiles.get(unit.name).node);
  const size = element("span", { class: "muted" }, ` ${channels} channels at ${height}×${width}`);
  return element("div", { class: "stage", role: "group", "aria-label": stage.name }, element("h4", {}, stage.name, size), element("div", { class: "units" }, units));
}

function end(side, name, sentence) {
  const box = drawn("svg", { viewBox: "0 0 60 92", "aria-hidden": "true" },
    drawn("path", { class: "wire", d: side === "in" ? "M52 58H60" : "M0 58H8" }),
    drawn("rect", { class: "end", x: 8, y: 36, width: 44, height: 44, rx: 5 }),
    drawn("text", { x: 30, y: 62, "text-anchor": "middle" }, name));
  const title = sentence || (name === "stem" ? "The first convolution" : "Average and classes");
  return element("div", { class: "end-tile", title }, box, element("span", { class: "unseen" }, `${name}: ${title}`));
}

/** What it does to the shape, where it changes it: the stride and the widths. */
export function changes(unit) {
  const widths = unit.in_channels === unit.out_channels ? "" : `${unit.in_channels}→${unit.out_channels}`;
  return [unit.stride > 1 ? `stride ${unit.stride}` : "", widths].filter(Boolean);
}

function hasShortcut(unit) {
  return unit.layout.split(" ").includes("+");
}

function makeTile(unit, id, onSwitch, onOpen) {
  const short = unit.name.split(".").at(-1);
  const whole = element("i", { class: "whole" });
  const now = element("i", { class: "now" });
  const box = element("button", { type: "button", class: "unit", "aria-expanded": "false", onclick: () => onOpen(unit.name) },
    element("span", { class: "responses", "aria-hidden": "true" }, whole, now));
  const lever = makeSwitch(unit, `${id}-why-${unit.name}`, () => onSwitch(unit.name));
  const label = element("span", { class: "short" }, short);
  const shape = element("span", { class: "change" }, changes(unit).map((text) => element("span", {}, text)));
  const node = element("div", { class: "tile", "data-unit": unit.name }, wires(unit), box, label, lever, shape);
  node.classList.toggle("plain", !hasShortcut(unit));

  function set(on, response, most, guest) {
    lever.setAttribute("aria-checked", String(on));
    node.classList.toggle("off", !on);
    node.classList.toggle("guest", Boolean(guest));
    label.textContent = guest ? guest.split(".").at(-1) : short;
    whole.style.height = `${(BARS_HEIGHT * (response?.baseline ?? 0)) / most}px`;
    now.style.height = `${(BARS_HEIGHT * (response?.ablated ?? 0)) / most}px`;
    const told = [unit.name, guest && `with ${guest} in its place`, unit.layout, response && `response ${figure(response.ablated)}, with all units on ${figure(response.baseline)}`];
    box.setAttribute("aria-label", told.filter(Boolean).join("; "));
    box.title = `${told.filter(Boolean).join("\n")}\n${count(unit.params)} parameters. Click to look inside.`;
  }
  return { node, set, open: (on) => { box.setAttribute("aria-expanded", String(on)); node.classList.toggle("opened", on); } };
}

/** A unit that cannot be taken out keeps a switch that says why, and can be reached by keyboard. */
function makeSwitch(unit, why, onSwitch) {
  const fixed = !unit.can_disable;
  return element("button", {
    type: "button",
    role: "switch",
    class: "switch",
    "aria-checked": "true",
    "aria-label": unit.name,
    "aria-disabled": fixed && "true",
    "aria-describedby": fixed && why,
    title: fixed ? `${unit.name} stays on: ${unit.reason}` : `Switch ${unit.name} off or on`,
    onclick: () => fixed || onSwitch(),
  }, element("i", { "aria-hidden": "true" }));
}

function wires(unit) {
  const parts = [drawn("path", { class: "wire", d: "M0 58H12" }), drawn("path", { class: "wire through", d: "M12 58H18M66 58H73" })];
  if (hasShortcut(unit)) {
    const kind = changes(unit).length ? "arc changes" : "arc";
    parts.push(drawn("path", { class: kind, d: "M10 58V22Q10 10 22 10H67Q79 10 79 22V52" }));
    parts.push(drawn("circle", { class: "join", cx: 79, cy: 58, r: 6 }), drawn("path", { class: "plus", d: "M79 55V61M76 58H82" }));
    parts.push(drawn("path", { class: "wire", d: "M85 58H92" }));
  } else {
    parts.push(drawn("path", { class: "wire through", d: "M73 58H92" }));
  }
  return drawn("svg", { class: "wires", viewBox: "0 0 92 92", "aria-hidden": "true" }, parts);
}

function legend(units) {
  const arcs = units.some(hasShortcut);
  return element("p", { class: "note legend" },
    element("span", { class: "key whole" }, "response with all units on"), element("span", { class: "key now" }, "now"),
    arcs && element("span", {}, "The arc is the shortcut; dashed where it changes the shape."), element("span", {}, "Click a box to look inside."));
}

function reasons(units, id) {
  const fixed = units.filter((unit) => !unit.can_disable);
  if (!fixed.length) return null;
  const rows = fixed.map((unit) => element("li", { id: `${id}-why-${unit.name}` }, element("b", {}, unit.name), ` stays on: ${unit.reason}.`));
  return element("ul", { class: "note reasons" }, rows);
}
