// The ways to ask, from the service's own description: what each takes, a line for a shell, and a trial.

import * as api from "./api.js";
import { tell } from "./alerts.js";
import { element } from "./elements.js";
import { curlOf } from "./curl.js";
import { shapeOf } from "./shape.js";

const LONGEST_TEXT = 200;

async function begin() {
  const [told, { models }] = await Promise.all([api.description(), api.models()]);
  const known = { name: models[0].name, number: 0, true: 0, predicted: 0, block: models[0].stages[0].blocks[0].name };
  const ways = Object.entries(told.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, facts]) => ({ path, method, ...facts })));
  document.getElementById("contents").append(...ways.map((way) => element("a", { href: `#${nameOf(way)}` }, ...titleOf(way))));
  document.getElementById("operations").append(...ways.map((way) => makeWay(way, told, known)));
}

function nameOf({ method, path }) {
  return `${method}${path.replace(/\W+/g, "-")}`;
}

function titleOf({ method, path }) {
  return [element("span", { class: `method ${method}` }, method.toUpperCase()), ...path.split(/(?=\/)/).flatMap((part, i) => (i ? [element("wbr"), part] : [part]))];
}

function makeWay(way, told, known) {
  const fields = (way.parameters ?? []).map((parameter) => makeField(parameter, known));
  const line = element("pre", { tabindex: "0", role: "group", "aria-label": "A line for a shell" });
  const answer = element("div", { "aria-live": "polite" });
  const values = () => Object.fromEntries(fields.map((field) => [field.name, field.value()]));
  const write = () => { line.textContent = curlOf(way, values(), location); };
  const asked = element("form", { onsubmit: (event) => { event.preventDefault(); trial(way, values(), answer); }, oninput: write },
    element("div", { class: "fields" }, fields.map((field) => field.node)), line,
    element("div", { class: "row" }, element("button", { class: "button main" }, "Ask now"), way.requestBody && element("span", { class: "note" }, "with a ring of 8×8 grey pixels as the picture")));
  asked.classList.add("operation");
  write();
  return element("section", { class: "panel operation", id: nameOf(way), "aria-label": `${way.method.toUpperCase()} ${way.path}` },
    element("h2", {}, ...titleOf(way)), element("p", {}, way.description), bodies(way), asked, answer, answers(way, told));
}

function makeField({ name, schema, description, required }, known) {
  const start = known[name] ?? schema.default ?? "";
  const input = schema.enum
    ? element("select", {}, schema.enum.map((one) => element("option", { value: one, selected: one === start }, one)))
    : element("input", { value: start, required: Boolean(required), type: schema.type === "integer" ? "number" : "text", min: schema.minimum, max: schema.maximum });
  const range = schema.maximum == null ? "" : `${schema.minimum} to ${schema.maximum}`;
  const note = [required ? "required" : "", description?.replace(/\.$/, ""), range].filter(Boolean).join(" · ");
  return { name, node: element("label", {}, element("b", {}, name), input, element("span", { class: "note" }, note)), value: () => input.value };
}

function bodies(way) {
  const kinds = Object.keys(way.requestBody?.content ?? {});
  if (!kinds.length) return null;
  const code = kinds.flatMap((kind, i) => [i ? ", " : "", element("code", {}, kind)]);
  return element("p", { class: "note" }, way.requestBody.required ? "Body: " : "Body, if any: ", code);
}

function answers(way, told) {
  const { 200: good, ...others } = way.responses;
  const [kind, content] = Object.entries(good.content)[0];
  const shape = kind === "application/json" ? shapeOf(content.schema, told) : kind;
  const rows = Object.entries(others).flatMap(([status, { description }]) => [element("dt", {}, status), element("dd", {}, description)]);
  return element("details", {}, element("summary", {}, "What it answers"), element("pre", { tabindex: "0", role: "group", "aria-label": "The answer" }, shape),
    element("p", { class: "note" }, "Or an error, as ", element("code", {}, '{"error": "what was required, what came, what next"}'), ":"), element("dl", { class: "statuses" }, rows));
}

/** Send what the fields say, with the example that the description has of a body. */
async function trial(way, values, place) {
  place.replaceChildren(element("p", { class: "note" }, "Asking …"));
  const body = way.requestBody?.content["application/json"].example;
  const { told, shown } = await api.trial(way, values, body).then(readable, (error) => ({ told: `${error.status || "No answer"}`, shown: error.message }));
  place.replaceChildren(element("p", { class: "note" }, told), typeof shown === "string" ? element("pre", { tabindex: "0", role: "group", "aria-label": "What was answered" }, shown) : shown);
}

async function readable(answer) {
  const kind = answer.headers.get("Content-Type");
  const told = `${answer.status}, ${kind}`;
  if (kind.startsWith("image/")) return { told, shown: element("img", { src: URL.createObjectURL(await answer.blob()), alt: "The picture", width: 96 }) };
  if (!kind.startsWith("application/json")) return { told, shown: await answer.text() };
  return { told, shown: JSON.stringify(await answer.json(), shortened, 2) };
}

function shortened(_, value) {
  return typeof value === "string" && value.length > LONGEST_TEXT ? `${value.slice(0, LONGEST_TEXT)}… (${value.length} letters)` : value;
}

begin().catch((error) => tell(error.status === 401 ? "This service asks for a token. Enter it in the explorer, in this same tab; then come back." : error.message));
