// Helpers that create elements, keep the focus and format numbers.

const SVG = "http://www.w3.org/2000/svg";

/** Create an element: `element("p", {class: "note", onclick: f}, "text", child)`. Functions become listeners; null and false are skipped. */
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Create an SVG element. */
export function svgElement(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

/** Call `redraw` and keep the focus: on its element, or on `fallback()` if that element was removed. */
export function keepFocus(redraw, fallback = () => null) {
  const focused = document.activeElement;
  redraw();
  if (!focused || focused === document.activeElement || focused === document.body) return;
  (focused.isConnected ? focused : fallback())?.focus({ preventScroll: true });
}

/** Format 0.9312 as "93.1 %". */
export function formatPercent(value) {
  return `${(100 * value).toFixed(1)} %`;
}

/** Format 1234567 as "1.23 million", 4096 as "4,096". */
export function formatCount(value) {
  return value < 1e6 ? value.toLocaleString("en") : `${(value / 1e6).toPrecision(3)} million`;
}

/** Format a measured value with three significant digits. */
export function formatNumber(value) {
  if (value == null || !Number.isFinite(value)) return "undefined";
  const size = Math.abs(value);
  return value === 0 || (size >= 1e-3 && size < 1e5) ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}

/** Return the text with a capital first letter. */
export function capitalize(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
