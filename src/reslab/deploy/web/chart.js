// Lines over a common axis. The drawing stretches with the page, its words do not.

import { drawn, element } from "./elements.js";

/**
 * A chart of `series`, each {name, kind, points: [[x, y], ...], dots}, told in words by `label`.
 * `format` writes the values of y, `ticks` are [x, text] under the axis, `low` and `high` the least range of y, `span` that of x.
 */
export function chart({ series, label, format, ticks, low = Infinity, high = -Infinity, span = [], tip }) {
  const points = series.flatMap((one) => one.points);
  const xs = range([...points.map((point) => point[0]), ...span]);
  const ys = range([...points.map((point) => point[1]), low, high].filter(Number.isFinite));
  const place = ([x, y]) => [(100 * (x - xs[0])) / (xs[1] - xs[0] || 1), 100 - (100 * (y - ys[0])) / (ys[1] - ys[0] || 1)];
  const lines = series.map((one) => drawn("polyline", { class: one.kind, points: one.points.map((point) => place(point).join(",")).join(" ") }));
  const marks = [ys[1], (ys[0] + ys[1]) / 2, ys[0]];
  const grid = marks.map((_, i) => drawn("path", { class: "grid", d: `M0 ${50 * i}H100` }));
  const zero = ys[0] < 0 && ys[1] > 0 ? drawn("path", { class: "zero", d: `M0 ${place([0, 0])[1]}H100` }) : null;
  const picture = drawn("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" }, grid, zero, lines);
  const dots = series.filter((one) => one.dots).flatMap((one) => one.points.map((point, i) => dot(one.kind, place(point), tip?.(one, i) ?? format(point[1]))));
  return element("div", { class: "chart", role: "img", "aria-label": label },
    element("div", { class: "y" }, marks.map((mark) => element("span", {}, format(mark)))),
    element("div", { class: "plot" }, picture, dots),
    element("div", { class: "x" }, ticks.map(([x, text]) => tick(place([x, 0])[0], text))));
}

function range(values) {
  return values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
}

function dot(kind, [x, y], title) {
  return element("i", { class: `dot ${kind}`, style: `left:${x}%;top:${y}%`, title });
}

function tick(x, text) {
  return element("span", { style: `left:${x}%`, class: x < 5 ? "first" : x > 95 ? "last" : "" }, text);
}

/** A key to the lines. */
export function keys(names) {
  return element("p", { class: "note legend" }, names.map(([kind, text]) => element("span", { class: `key ${kind}` }, text)));
}
