// Which units are off and which have changed places.

import { element, keepingFocus } from "./elements.js";

/** The plan of one network; `onChange()` hears of every change. */
export function makePlan(onChange) {
  const off = new Set();
  let swaps = [];
  const changed = (act) => (...given) => { act(...given); onChange(); };
  return {
    off,
    get swaps() { return swaps; },
    get empty() { return off.size === 0 && swaps.length === 0; },
    asked: () => ({ off: [...off], swap: swaps }),
    /** "all units on", "2 units off and 1 swap". */
    words: () => [numbered(off.size, "unit", " off"), numbered(swaps.length, "swap")].filter(Boolean).join(" and ") || "all units on",
    toggle: changed((name) => { if (!off.delete(name)) off.add(name); }),
    // A unit has one place: a new swap undoes the ones that it was in.
    swap: changed((a, b) => { swaps = [...swaps.filter((pair) => !pair.includes(a) && !pair.includes(b)), [a, b]]; }),
    back: changed((a) => { swaps = swaps.filter((pair) => !pair.includes(a)); }),
    clear: changed(() => { off.clear(); swaps = []; }),
  };
}

function numbered(number, noun, after = "") {
  return number ? `${number} ${noun}${number > 1 ? "s" : ""}${after}` : "";
}

/** "All on", what is off in words, and the choice of two units that change places. */
export function makePlanControls(units, plan) {
  const clear = element("button", { type: "button", class: "button all-on", onclick: () => !plan.empty && plan.clear() }, "All on");
  const said = element("span", { class: "note" });
  const chips = element("span", { class: "chips" });
  const node = element("div", { class: "plan row between" }, element("div", { class: "row" }, clear, said, chips), swapForm(units, plan));

  function update() {
    clear.setAttribute("aria-disabled", String(plan.empty));
    const total = units.filter((unit) => unit.can_disable).length;
    said.textContent = plan.off.size ? `${plan.off.size} of ${total} units off` : "Every unit is on.";
    const swapped = plan.swaps.join(" ");
    if (chips.dataset.swaps === swapped) return;
    chips.dataset.swaps = swapped;
    keepingFocus(() => chips.replaceChildren(...plan.swaps.map(([a, b]) => chip(a, b, () => plan.back(a)))), () => clear);
  }
  update();
  return { node, update };
}

function chip(a, b, onclick) {
  const facts = { type: "button", class: "chip", onclick, "aria-label": `Undo the swap of ${a} and ${b}` };
  return element("button", facts, `${a} ⇄ ${b}`, element("span", { "aria-hidden": "true" }, " ×"));
}

function swapForm(units, plan) {
  const able = units.filter((unit) => unit.swappable_with.length);
  if (!able.length) return element("p", { class: "note" }, "No two units have equal shapes, so none can change places.");
  const first = element("select", { "aria-label": "First unit of the swap", class: "swap-first" });
  const second = element("select", { "aria-label": "Second unit of the swap, of equal shape", class: "swap-second" });
  const options = (names) => names.map((name) => element("option", { value: name }, name));
  const partners = () => second.replaceChildren(...options(able.find((unit) => unit.name === first.value).swappable_with));
  first.append(...options(able.map((unit) => unit.name)));
  first.addEventListener("change", partners);
  partners();
  const act = (event) => { event.preventDefault(); plan.swap(first.value, second.value); };
  return element("form", { class: "row swap", onsubmit: act }, "Of equal shape:", first, "and", second, element("button", { class: "button" }, "Swap"));
}
