// The top classes as bars: the current probabilities over those of the intact network.

import { element, keepFocus, formatPercent } from "./elements.js";

const NUM_ROWS = 5;
const NUM_LABEL_ROWS = 10;

/** Bars of classes; a click calls `onSelect(name)`. Rows are reused, so that the focus stays.
 *
 * With `thresholds`, a Map by class, each bar has a mark, and the classes that reach theirs are the predicted ones.
 */
export function makeClassBars(onSelect, thresholds = null) {
  const rows = new Map();
  const node = element("ol", { class: "bars" });

  function show(baseline, current, selected) {
    const before = valuesOf(baseline);
    const after = valuesOf(current);
    const isPredicted = (name) => (thresholds ? after.get(name) >= thresholds.get(name) : name === current[0]?.name);
    const names = shownNames(baseline, current, thresholds ? NUM_LABEL_ROWS : NUM_ROWS);
    for (const name of names) if (!rows.has(name)) rows.set(name, makeRow(name, onSelect, thresholds?.get(name)));
    const nodes = names.map((name) => rows.get(name));
    if (nodes.some((row, i) => node.children[i] !== row.node) || node.children.length !== nodes.length) {
      keepFocus(() => node.replaceChildren(...nodes.map((row) => row.node)), () => node.querySelector(".bar"));
    }
    names.forEach((name, i) => nodes[i].set(before.get(name) ?? 0, after.get(name) ?? 0, isPredicted(name), name === selected));
  }

  return { node, show };
}

function valuesOf(classes) {
  return new Map(classes.map((score) => [score.name, score.probability]));
}

/** Return the names to show: the intact network's top classes in stable order, then new ones of the ablated network. */
export function shownNames(baseline, current, numRows = NUM_ROWS) {
  const [first, best] = [baseline, current].map((classes) => classes.slice(0, numRows).map((score) => score.name));
  const candidates = new Set([...first.slice(0, 1), ...best.slice(0, 2), ...first]);
  const shown = [...candidates].slice(0, numRows);
  return [...first.filter((name) => shown.includes(name)), ...shown.filter((name) => !first.includes(name))];
}

function makeRow(name, onSelect, threshold) {
  const baselineBar = element("i", { class: "bar-baseline" });
  const bar = element("i", { class: "bar-current" });
  const mark = threshold != null && element("i", { class: "threshold", title: `threshold ${formatPercent(threshold)}` });
  if (mark) mark.style.left = `${100 * Math.min(Math.max(threshold, 0), 1)}%`;
  const value = element("span", { class: "value" });
  const button = element(
    "button",
    { type: "button", class: "bar", title: `Show the heatmap for ${name}`, onclick: () => onSelect(name) },
    element("span", { class: "name" }, name),
    element("span", { class: "track" }, baselineBar, bar, mark),
    value,
  );
  return {
    node: element("li", {}, button),
    set(before, after, isTop, isSelected) {
      baselineBar.style.width = `${100 * before}%`;
      bar.style.width = `${100 * after}%`;
      value.textContent = formatPercent(after);
      button.classList.toggle("top", isTop);
      button.setAttribute("aria-pressed", String(isSelected));
      const change = Math.abs(before - after) < 5e-4 ? "" : `, with all blocks on ${formatPercent(before)}`;
      const limit = threshold == null ? "" : `, threshold ${formatPercent(threshold)}`;
      button.setAttribute("aria-label", `${name}: ${formatPercent(after)}${limit}${change}`);
    },
  };
}
