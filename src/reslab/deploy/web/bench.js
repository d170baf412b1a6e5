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

// A heat map that took longer is not drawn anew at every switch: the switches would wait for it.
const SLOW_MILLISECONDS = 2500;

/** The bench of `model`; `heat` are the controls that all benches share, `id` makes its elements' names its own. */
export function makeBench(model, heat, id) {
  const units = model.stages.flatMap((stage) => stage.blocks);
  let picture = null, told = {}, whole = [], now = [], responses = [], chosen = null, asked = 0, slow = false;

  const plan = makePlan(() => { draw(); lesion(); });
  const verdict = element("p", { class: "verdict" });
  const spoken = element("p", { class: "unseen", role: "status" });
  const bars = makeBars((name) => { chosen = name === chosen ? null : name; draw(); explain(); });
  const seen = makeHeat();
  const controls = makePlanControls(units, plan);
  const askUnit = oneByOne((name) => api.unit(model.name, name, plan.asked(), picture));
  const inside = makeUnit(model, async (name) => (picture ? askUnit(name) : null), plan, (name) => { network.open(null); node.querySelector(`[data-unit="${name}"] .unit`)?.focus(); });
  const network = makeNetwork(model, id, plan.toggle, (name) => { network.open(name); inside.open(name); });
  const curve = makeCurve(model);
  const askPrediction = latest((signal, blob) => api.predict(model.name, blob, signal));
  const askLesion = oneByOne(() => api.lesion(model.name, plan.asked(), picture));
  const askHeat = oneByOne(() => api.explain(model.name, heat.method(), chosen, plan.asked(), picture));

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
    seen.wait(true);
    slow = false;
    await lesion();
    curve.take(picture);
  }

  /** What the network says as it stands now; then, once it stands so for good, what its insides look like. */
  async function lesion() {
    if (!picture) return;
    const mine = ++asked;
    node.classList.add("waiting");
    const found = await attempt(askLesion);
    if (found) {
      quiet();
      ({ baseline: whole, classes: now, responses } = found);
      draw();
    }
    if (mine !== asked) return;
    node.classList.remove("waiting");
    if (found) spoken.textContent = `${model.name}: ${verdict.textContent}`;
    if (slow) seen.offer(explain);
    else explain();
    inside.renew();
  }

  async function explain() {
    if (!picture) return;
    const [told, begun] = [plan.words(), performance.now()];
    seen.wait(true);
    const found = await attempt(askHeat);
    if (!found) return seen.wait(false);
    slow = performance.now() - begun > SLOW_MILLISECONDS;
    seen.show(found, told);
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
  const scores = model.metrics?.top1 != null ? `${percent(model.metrics.top1)} of its test pictures right` : "";
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
