// Line charts. The SVG stretches with the page; labels are HTML, so that text keeps its size.

import { svgElement, element } from "./elements.js";

/**
 * Return a chart of `series`, each {name, kind, points: [[x, y], ...], dots}, with the text alternative `label`.
 * `format` formats y values, `ticks` are [x, text] below the axis, `low` and `high` the minimum range of y, `span` that of x.
 */
export function chart({ series, label, format, ticks, low = Infinity, high = -Infinity, span = [], tip }) {
  const points = series.flatMap((one) => one.points);
  const xs = range([...points.map((point) => point[0]), ...span]);
  const ys = range([...points.map((point) => point[1]), low, high].filter(Number.isFinite));
  const toPercent = ([x, y]) => [(100 * (x - xs[0])) / (xs[1] - xs[0] || 1), 100 - (100 * (y - ys[0])) / (ys[1] - ys[0] || 1)];
  const lines = series.map((one) => svgElement("polyline", { class: one.kind, points: one.points.map((point) => toPercent(point).join(",")).join(" ") }));
  const gridValues = [ys[1], (ys[0] + ys[1]) / 2, ys[0]];
  const grid = gridValues.map((_, i) => svgElement("path", { class: "grid", d: `M0 ${50 * i}H100` }));
  const zero = ys[0] < 0 && ys[1] > 0 ? svgElement("path", { class: "zero", d: `M0 ${toPercent([0, 0])[1]}H100` }) : null;
  const drawing = svgElement("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" }, grid, zero, lines);
  const dots = series.filter((one) => one.dots).flatMap((one) => one.points.map((point, i) => dot(one.kind, toPercent(point), tip?.(one, i) ?? format(point[1]))));
  return element("div", { class: "chart", role: "img", "aria-label": label },
    element("div", { class: "y" }, gridValues.map((value) => element("span", {}, format(value)))),
    element("div", { class: "plot" }, drawing, dots),
    element("div", { class: "x" }, ticks.map(([x, text]) => tick(toPercent([x, 0])[0], text))));
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

/** Return the legend of a chart. */
export function chartLegend(names) {
  return element("p", { class: "note legend" }, names.map(([kind, text]) => element("span", { class: `key ${kind}` }, text)));
}
