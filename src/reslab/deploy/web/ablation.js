// The blocks that are switched off, swapped or scaled, and the controls for them.

import { element, keepFocus } from "./elements.js";

/** The ablation of one network; `onChange()` is called after every change. */
export function makeAblation(onChange) {
  const off = new Set();
  const scales = new Map();
  let swaps = [];
  const changed = (action) => (...args) => { action(...args); onChange(); };
  return {
    off,
    get swaps() { return swaps; },
    get isEmpty() { return off.size === 0 && swaps.length === 0 && scales.size === 0; },
    request: () => ({ off: [...off], swap: swaps, scale: Object.fromEntries(scales) }),
    /** The factor of a block's branch: 1 as trained, 0 the shortcut alone. */
    factor: (name) => (off.has(name) ? 0 : scales.get(name) ?? 1),
    numScaled: () => scales.size,
    /** Describe the ablation: "all blocks on", "2 blocks off and 1 swap". */
    describe: () => [plural(off.size, "block", " off"), plural(swaps.length, "swap"), plural(scales.size, "block", " scaled")].filter(Boolean).join(" and ") || "all blocks on",
    toggle: changed((name) => { if (!off.delete(name)) off.add(name); }),
    // A block has one position, so a new swap undoes the earlier swaps of its blocks.
    swap: changed((a, b) => { swaps = [...swaps.filter((pair) => !pair.includes(a) && !pair.includes(b)), [a, b]]; }),
    undoSwap: changed((a) => { swaps = swaps.filter((pair) => !pair.includes(a)); }),
    scale: changed((name, factor) => { off.delete(name); if (factor === 1) scales.delete(name); else scales.set(name, factor); }),
    clear: changed(() => { off.clear(); scales.clear(); swaps = []; }),
  };
}

function plural(number, noun, after = "") {
  return number ? `${number} ${noun}${number > 1 ? "s" : ""}${after}` : "";
}

/** The button "All on", the number of blocks that are off, and the form that swaps two blocks. */
export function makeAblationControls(blocks, ablation) {
  const clear = element("button", { type: "button", class: "button all-on", onclick: () => !ablation.isEmpty && ablation.clear() }, "All on");
  const status = element("span", { class: "note" });
  const chips = element("span", { class: "chips" });
  const node = element("div", { class: "ablation row between" }, element("div", { class: "row" }, clear, status, chips), swapForm(blocks, ablation));

  function update() {
    clear.setAttribute("aria-disabled", String(ablation.isEmpty));
    const total = blocks.filter((block) => block.can_disable).length;
    const scaled = plural(ablation.numScaled(), "block", " scaled");
    const on = ablation.off.size ? `${ablation.off.size} of ${total} blocks off` : scaled ? "" : "Every block is on.";
    status.textContent = [on, scaled].filter(Boolean).join(", ");
    const swapped = ablation.swaps.join(" ");
    if (chips.dataset.swaps === swapped) return;
    chips.dataset.swaps = swapped;
    keepFocus(() => chips.replaceChildren(...ablation.swaps.map(([a, b]) => chip(a, b, () => ablation.undoSwap(a)))), () => clear);
  }
  update();
  return { node, update };
}

function chip(a, b, onclick) {
  const attributes = { type: "button", class: "chip", onclick, "aria-label": `Undo the swap of ${a} and ${b}` };
  return element("button", attributes, `${a} ⇄ ${b}`, element("span", { "aria-hidden": "true" }, " ×"));
}

function swapForm(blocks, ablation) {
  const swappable = blocks.filter((block) => block.swappable_with.length);
  if (!swappable.length) return element("p", { class: "note" }, "No two blocks have the same shape, so none can be swapped.");
  const first = element("select", { "aria-label": "First block of the swap", class: "swap-first" });
  const second = element("select", { "aria-label": "Second block of the swap, of the same shape", class: "swap-second" });
  const options = (names) => names.map((name) => element("option", { value: name }, name));
  const updatePartners = () => second.replaceChildren(...options(swappable.find((block) => block.name === first.value).swappable_with));
  first.append(...options(swappable.map((block) => block.name)));
  first.addEventListener("change", updatePartners);
  updatePartners();
  const action = (event) => { event.preventDefault(); ablation.swap(first.value, second.value); };
  return element("form", { class: "row swap", onsubmit: action }, "Swap blocks of the same shape:", first, "and", second, element("button", { class: "button" }, "Swap"));
}
