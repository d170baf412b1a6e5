// The API documentation, generated from openapi.json: parameters, curl command, a trial request and the response.

import * as api from "./api.js";
import { showAlert } from "./alerts.js";
import { element } from "./elements.js";
import { curlCommand } from "./curl.js";
import { schemaText } from "./schema_text.js";

const MAX_TEXT_LENGTH = 200;

async function load() {
  const [spec, { models }] = await Promise.all([api.openapi(), api.models()]);
  const known = { name: models[0].name, number: 0, true: 0, predicted: 0, block: models[0].stages[0].blocks[0].name };
  const routes = Object.entries(spec.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, operation]) => ({ path, method, ...operation })));
  document.getElementById("contents").append(...routes.map((route) => element("a", { href: `#${routeId(route)}` }, ...routeTitle(route))));
  document.getElementById("operations").append(...routes.map((route) => makeRoute(route, spec, known)));
}

function routeId({ method, path }) {
  return `${method}${path.replace(/\W+/g, "-")}`;
}

function routeTitle({ method, path }) {
  return [element("span", { class: `method ${method}` }, method.toUpperCase()), ...path.split(/(?=\/)/).flatMap((part, i) => (i ? [element("wbr"), part] : [part]))];
}

function makeRoute(route, spec, known) {
  const fields = (route.parameters ?? []).map((parameter) => makeField(parameter, known));
  const line = element("pre", { tabindex: "0", role: "group", "aria-label": "curl command" });
  const output = element("div", { "aria-live": "polite" });
  const values = () => Object.fromEntries(fields.map((field) => [field.name, field.value()]));
  const updateCommand = () => { line.textContent = curlCommand(route, values(), location); };
  const form = element("form", { onsubmit: (event) => { event.preventDefault(); sendRequest(route, values(), output); }, oninput: updateCommand },
    element("div", { class: "fields" }, fields.map((field) => field.node)), line,
    element("div", { class: "row" }, element("button", { class: "button main" }, "Send request"), route.requestBody && element("span", { class: "note" }, "with an 8×8 grayscale example image")));
  form.classList.add("operation");
  updateCommand();
  return element("section", { class: "panel operation", id: routeId(route), "aria-label": `${route.method.toUpperCase()} ${route.path}` },
    element("h2", {}, ...routeTitle(route)), element("p", {}, route.description), bodyTypes(route), form, output, responses(route, spec));
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

function bodyTypes(route) {
  const kinds = Object.keys(route.requestBody?.content ?? {});
  if (!kinds.length) return null;
  const code = kinds.flatMap((kind, i) => [i ? ", " : "", element("code", {}, kind)]);
  return element("p", { class: "note" }, route.requestBody.required ? "Body: " : "Optional body: ", code);
}

function responses(route, spec) {
  const { 200: ok, ...others } = route.responses;
  const [kind, content] = Object.entries(ok.content)[0];
  const shape = kind === "application/json" ? schemaText(content.schema, spec) : kind;
  const rows = Object.entries(others).flatMap(([status, { description }]) => [element("dt", {}, status), element("dd", {}, description)]);
  return element("details", {}, element("summary", {}, "Response"), element("pre", { tabindex: "0", role: "group", "aria-label": "Response schema" }, shape),
    element("p", { class: "note" }, "Errors are ", element("code", {}, '{"error": "message", "kind": "..."}'), ":"), element("dl", { class: "statuses" }, rows));
}

/** Send a request with the values of the fields and the example body, and show the response. */
async function sendRequest(route, values, container) {
  container.replaceChildren(element("p", { class: "note" }, "Sending …"));
  const example = route.requestBody?.content["application/json"].example;
  const { status, body } = await api.callRoute(route, values, example).then(describeResponse, (error) => ({ status: `${error.status || "No response"}`, body: error.message }));
  container.replaceChildren(element("p", { class: "note" }, status), typeof body === "string" ? element("pre", { tabindex: "0", role: "group", "aria-label": "Response body" }, body) : body);
}

async function describeResponse(output) {
  const kind = output.headers.get("Content-Type");
  const status = `${output.status}, ${kind}`;
  if (kind.startsWith("image/")) return { status, body: element("img", { src: URL.createObjectURL(await output.blob()), alt: "The image of the response", width: 96 }) };
  if (!kind.startsWith("application/json")) return { status, body: await output.text() };
  return { status, body: JSON.stringify(await output.json(), shorten, 2) };
}

function shorten(_, value) {
  return typeof value === "string" && value.length > MAX_TEXT_LENGTH ? `${value.slice(0, MAX_TEXT_LENGTH)}… (${value.length} characters)` : value;
}

load().catch((error) => showAlert(error.status === 401 ? "This server requires a token. Enter it in the explorer in this tab, then come back." : error.message));
