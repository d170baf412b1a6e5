// The drop against depth: every unit taken out alone, one after the other.

import * as api from "./api.js";
import { attempt } from "./alerts.js";
import { chart } from "./chart.js";
import { element, keepingFocus, percent } from "./elements.js";
import { oneByOne } from "./latest.js";

// Of more units, or of larger pictures, it takes seconds that the switches would wait for: it is measured when asked for.
const MOST_UNITS_UNASKED = 30;
const MOST_PIXELS_UNASKED = 30 * 64 * 64;

/** The curve of `model` for the picture that is looked at, or for the run's test pictures. */
export function makeCurve(model) {
  const units = model.stages.flatMap((stage) => stage.blocks);
  const quick = units.length <= MOST_UNITS_UNASKED && units.length * model.input_size[1] * model.input_size[2] <= MOST_PIXELS_UNASKED;
  let picture = null;
  const place = element("div", { class: "curve-place", tabindex: "-1" });
  const source = element("select", { "aria-label": "Measured on", onchange: () => measure() },
    element("option", { value: "picture" }, "this picture"), element("option", { value: "run" }, "the run's test pictures"));
  const again = element("button", { type: "button", class: "button", onclick: () => measure() }, `Try each of the ${units.length} units`);
  const head = element("div", { class: "row between" }, element("h3", {}, "Each unit off alone: the drop against depth"), source);
  const ask = oneByOne(() => api.curve(model.name, source.value === "picture" ? picture : null));

  async function measure() {
    if (!picture && source.value === "picture") return;
    place.setAttribute("aria-busy", "true");
    const answer = await attempt(ask);
    place.setAttribute("aria-busy", "false");
    if (answer) keepingFocus(() => place.replaceChildren(drawCurve(answer.blocks, model)), () => place);
  }

  return {
    node: element("div", { class: "curve" }, head, place),
    place,
    take(blob) {
      picture = blob;
      if (source.value === "run") return;
      if (quick) measure();
      else place.replaceChildren(again);
    },
  };
}

function drawCurve(all, model) {
  const found = all.map((one, depth) => ({ ...one, depth })).filter((one) => one.confidence_drop != null);
  if (!found.length) return element("p", { class: "note" }, "No unit of this network can be taken out.");
  const points = found.map((one) => [one.depth, one.confidence_drop]);
  const worst = found.reduce((most, one) => (one.confidence_drop > most.confidence_drop ? one : most));
  const said = `The confidence falls most without ${worst.block}: by ${percent(worst.confidence_drop)}`;
  const drawing = chart({
    series: [{ kind: "two", points, dots: true }],
    label: `${said}. ${found.map((one) => `${one.block}: ${percent(one.confidence_drop)}`).join(", ")}`,
    format: (value) => `${Math.round(100 * value)} %`.replace("-", "−"),
    ticks: ticksOf(all, model),
    span: [0, all.length - 1],
    low: 0,
    high: 0.1,
    tip: (_, i) => `without ${found[i].block}: ${percent(found[i].confidence_drop)} less sure`,
  });
  return element("figure", {}, drawing, element("figcaption", {}, `${said}.`));
}

/** The first unit of each stage. */
function ticksOf(all, model) {
  return model.stages.map((stage) => [all.findIndex((one) => one.block === stage.blocks[0].name), stage.name]);
}
