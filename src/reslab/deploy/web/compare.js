// Which networks are on the page: one, or two side by side on one picture.

import { makeBench } from "./bench.js";
import { element, keepingFocus } from "./elements.js";

/** The benches of the chosen networks; `onModels(models)` hears which these are, one or two. */
export function makeComparison(models, heat, onModels) {
  const [first, second] = [document.getElementById("model"), document.getElementById("beside")];
  const place = document.getElementById("benches");
  let benches = [], current = null;
  const named = (name) => models.find((model) => model.name === name);
  const chosen = () => [...new Set([first.value, second.value].filter(Boolean))].map(named);
  const nameOf = (model) => `bench-${models.indexOf(model)}`;
  for (const one of [first, second]) one.addEventListener("change", () => { put(); onModels(chosen()); });

  /** Benches that stay keep their switches and answers. */
  function put() {
    const kept = new Map(benches.map((bench) => [bench.model.name, bench]));
    benches = chosen().map((model) => kept.get(model.name) ?? makeBench(model, heat, nameOf(model)));
    keepingFocus(() => place.replaceChildren(...benches.map((bench) => bench.node)));
    place.classList.toggle("two", benches.length > 1);
    for (const bench of benches) if (current && !kept.has(bench.model.name)) bench.take(...current).catch(() => {});
  }

  /** Show all of them another picture. Rejects where the first cannot take it; then nothing has changed. */
  async function take(picture, told) {
    const [bench, ...others] = benches;
    await bench.take(picture, told);
    current = [picture, told];
    await Promise.all(others.map((other) => other.take(picture, told)));
  }

  /** The networks as the service tells them now; a bench is made anew where its run has ended since. */
  function renew(found) {
    const ended = found.filter((model) => model.finished && !named(model.name)?.finished).map((model) => model.name);
    models = found;
    benches = benches.filter((bench) => !ended.includes(bench.model.name));
    fillChoices(first, second, models);
    put();
  }

  fillChoices(first, second, models);
  put();
  return { take, renew, busy: () => current !== null, each: (act) => benches.forEach(act), models: chosen };
}

/** The networks to choose from; what was chosen stays so. */
function fillChoices(first, second, models) {
  const chosen = [first.value, second.value];
  const options = () => models.map((model) => element("option", { value: model.name }, model.finished ? model.name : `${model.name} (in training)`));
  first.replaceChildren(...options());
  second.replaceChildren(element("option", { value: "" }, "nothing"), ...options());
  second.disabled = models.length < 2;
  [first.value, second.value] = [chosen[0] || models[0].name, chosen[1]];
}
