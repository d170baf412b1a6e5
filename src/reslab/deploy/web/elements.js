// Elements of the page, made from a name, what they carry, and what they hold.

const SVG = "http://www.w3.org/2000/svg";

/** `element("p", {class: "note", onclick: act}, "text", child)`: functions become listeners, false and null are left out. */
export function element(name, facts = {}, ...children) {
  return filled(document.createElement(name), facts, children);
}

/** The same for what is drawn. */
export function drawn(name, facts = {}, ...children) {
  return filled(document.createElementNS(SVG, name), facts, children);
}

function filled(made, facts, children) {
  for (const [name, value] of Object.entries(facts)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child != null && child !== false));
  return made;
}

/** Redraw by `act`; the element that had the focus keeps it, or else `next()` gets it where there was one to keep. */
export function keepingFocus(act, next = () => null) {
  const had = document.activeElement;
  act();
  if (!had || had === document.activeElement || had === document.body) return;
  (had.isConnected ? had : next())?.focus({ preventScroll: true });
}

/** 0.9312 as "93.1 %". */
export function percent(value) {
  return `${(100 * value).toFixed(1)} %`;
}

/** 1234567 as "1.23 million", 4096 as "4,096". */
export function count(value) {
  return value < 1e6 ? value.toLocaleString("en") : `${(value / 1e6).toPrecision(3)} million`;
}

/** A measured value in three figures. */
export function figure(value) {
  if (value == null || !Number.isFinite(value)) return "not known";
  const size = Math.abs(value);
  return value === 0 || (size >= 1e-3 && size < 1e5) ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}
