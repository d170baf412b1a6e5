// The top classes as bars: what the network says now, over what it says whole.

import { element, keepingFocus, percent } from "./elements.js";

const NUM_ROWS = 5;

/** Bars of classes; `onChoose(name)` hears of the class that is clicked. Rows stay in place, so that focus does too. */
export function makeBars(onChoose) {
  const rows = new Map();
  const node = element("ol", { class: "bars" });

  function show(whole, now, chosen) {
    const before = valuesOf(whole);
    const after = valuesOf(now);
    const names = shownNames(whole, now);
    for (const name of names) if (!rows.has(name)) rows.set(name, makeRow(name, onChoose));
    const nodes = names.map((name) => rows.get(name));
    if (nodes.some((row, i) => node.children[i] !== row.node) || node.children.length !== nodes.length) {
      keepingFocus(() => node.replaceChildren(...nodes.map((row) => row.node)), () => node.querySelector(".bar"));
    }
    names.forEach((name, i) => nodes[i].set(before.get(name) ?? 0, after.get(name) ?? 0, name === now[0]?.name, name === chosen));
  }

  return { node, show };
}

function valuesOf(classes) {
  return new Map(classes.map((one) => [one.name, one.probability]));
}

/** The whole network's best ones in their order, which does not jump about, then what has come up since. */
export function shownNames(whole, now) {
  const [first, best] = [whole, now].map((classes) => classes.slice(0, NUM_ROWS).map((one) => one.name));
  const wanted = new Set([...first.slice(0, 1), ...best.slice(0, 2), ...first]);
  const shown = [...wanted].slice(0, NUM_ROWS);
  return [...first.filter((name) => shown.includes(name)), ...shown.filter((name) => !first.includes(name))];
}

function makeRow(name, onChoose) {
  const ghost = element("i", { class: "ghost" });
  const bar = element("i", { class: "now" });
  const value = element("span", { class: "value" });
  const button = element(
    "button",
    { type: "button", class: "bar", title: `What in the picture speaks for ${name}?`, onclick: () => onChoose(name) },
    element("span", { class: "name" }, name),
    element("span", { class: "track" }, ghost, bar),
    value,
  );
  return {
    node: element("li", {}, button),
    set(before, after, isTop, isChosen) {
      ghost.style.width = `${100 * before}%`;
      bar.style.width = `${100 * after}%`;
      value.textContent = percent(after);
      button.classList.toggle("top", isTop);
      button.setAttribute("aria-pressed", String(isChosen));
      const was = Math.abs(before - after) < 5e-4 ? "" : `, with all units on ${percent(before)}`;
      button.setAttribute("aria-label", `${name}: ${percent(after)}${was}`);
    },
  };
}
