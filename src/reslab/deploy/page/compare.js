// Which networks are on the page: one, or two side by side on one picture.

import { makeBench } from "./bench.js";
import { element } from "./elements.js";

/** The benches of the chosen networks; `onModel(model)` hears which is the first. */
export function makeComparison(models, heat, onModel) {
  const [first, second] = [document.getElementById("model"), document.getElementById("beside")];
  const place = document.getElementById("benches");
  let benches = [], current = null;
  const named = (name) => models.find((model) => model.name === name);
  first.addEventListener("change", () => { put(); onModel(named(first.value)); });
  second.addEventListener("change", put);

  /** Benches that stay keep their switches and answers. */
  function put() {
    const names = [...new Set([first.value, second.value].filter(Boolean))];
    const kept = new Map(benches.map((bench) => [bench.model.name, bench]));
    benches = names.map((name) => kept.get(name) ?? makeBench(named(name), heat, name.replace(/\W/g, "-")));
    place.replaceChildren(...benches.map((bench) => bench.node));
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
  return { take, renew, busy: () => current !== null, each: (act) => benches.forEach(act), model: () => named(first.value) };
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
