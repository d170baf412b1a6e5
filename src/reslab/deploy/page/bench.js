// One network looking at the picture: its answer, its heat map, its units with their switches.

import * as api from "./api.js";
import { attempt, quiet } from "./alerts.js";
import { makeBars } from "./bars.js";
import { makeCurve } from "./curve.js";
import { count, element, percent } from "./elements.js";
import { makeHeat } from "./heat.js";
import { latest, oneByOne } from "./latest.js";
import { makePlan, makePlanControls } from "./lesion.js";
import { makeNetwork } from "./network.js";
import { makeUnit } from "./unit.js";

/** The bench of `model`; `heat` are the controls that all benches share, `id` makes its elements' names its own. */
export function makeBench(model, heat, id) {
  const units = model.stages.flatMap((stage) => stage.units);
  let picture = null, told = {}, whole = [], now = [], responses = [], chosen = null, asked = 0;

  const plan = makePlan(() => { draw(); lesion(); });
  const verdict = element("p", { class: "verdict" });
  const spoken = element("p", { class: "unseen", "aria-live": "polite", role: "status" });
  const bars = makeBars((name) => { chosen = name === chosen ? null : name; draw(); explain(); });
  const seen = makeHeat();
  const controls = makePlanControls(units, plan);
  const inside = makeUnit(model, (name) => { network.open(null); node.querySelector(`[data-unit="${name}"] .unit`)?.focus(); });
  const network = makeNetwork(model, id, plan.toggle, (name) => { network.open(name); inside.open(name, picture); });
  const curve = makeCurve(model);
  const askPrediction = latest((signal, blob) => api.predict(model.name, blob, signal));
  const askLesion = oneByOne(() => api.lesion(model.name, plan.asked(), picture));
  const askHeat = oneByOne(() => api.explain(model.name, heat.method(), chosen, picture));

  const answer = element("div", { class: "answer" }, seen.node, element("div", { class: "classes" }, bars.node, spoken));
  const parts = [verdict, answer, element("h3", {}, "Units"), controls.node, network.node, inside.node, curve.node];
  const node = element("section", { class: "panel bench", "aria-label": `The network ${model.name}` }, heading(model), ...(model.finished ? parts : [waiting(model)]));

  /** Look at another picture. Rejects, and changes nothing, where the network cannot take it. */
  async function take(blob, about) {
    if (!model.finished) return;
    const found = (await askPrediction(blob)).predictions[0];
    [picture, told, whole, now, chosen] = [blob, about, found.classes, found.classes, null];
    quiet();
    draw();
    explain();
    inside.take(picture);
    await lesion();
    curve.take(picture);
  }

  async function lesion() {
    if (!picture) return;
    const mine = ++asked;
    node.classList.add("waiting");
    const found = await attempt(askLesion);
    if (mine === asked) node.classList.remove("waiting");
    if (!found) return;
    quiet();
    ({ whole, classes: now, responses } = found);
    draw();
    spoken.textContent = verdict.textContent;
  }

  async function explain() {
    if (!picture) return;
    seen.wait(true);
    const found = await attempt(askHeat);
    if (found) seen.show(found);
    seen.wait(false);
    seen.strength(heat.strength());
  }

  function draw() {
    controls.update();
    network.update(plan, responses);
    bars.show(whole, now, chosen);
    verdict.replaceChildren(...(now.length ? sentence(whole[0], now[0], told, model.classes) : ["Waiting for a picture."]));
  }

  draw();
  return { node, model, take, explain, strength: () => seen.strength(heat.strength()) };
}

function heading(model) {
  const scores = model.scores?.top1 != null ? `${percent(model.scores.top1)} of its test pictures right` : "";
  const facts = [model.arch, model.depth && `${model.depth} layers`, `${count(model.params)} parameters`, scores];
  return element("div", {}, element("h2", {}, model.name), element("p", { class: "note" }, facts.filter(Boolean).join(" · ")));
}

function waiting(model) {
  return element("p", { class: "empty" }, `${model.name} is still in training. Its curves grow below; it can be asked as soon as it has ended.`);
}

/** "cat 93.1 %", and beside it what the whole network said where that is not the same. */
function sentence(before, after, told, classes) {
  const right = told.label == null || !classes.includes(told.label) ? null : after.name === told.label;
  const label = right == null ? [] : [element("span", { class: right ? "right" : "wrong" }, right ? "✓ as labelled" : `labelled ${told.label}`)];
  const same = before.name === after.name && Math.abs(before.probability - after.probability) < 5e-4;
  const fell = before.name === after.name ? `was ${percent(before.probability)}` : `was ${before.name}, ${percent(before.probability)}`;
  const was = same ? [] : [element("span", { class: "was" }, fell)];
  return [element("b", {}, after.name), " ", element("span", { class: "sure" }, percent(after.probability)), " ", ...was, " ", ...label];
}
