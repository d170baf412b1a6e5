// The server's API as functions. Failures reject with a ServerError, whose message is shown to the user.

import { routeUrl } from "./curl.js";

const TOKEN_KEY = "reslab-token";
const MAX_RETRY_SECONDS = 5;

/** An error response, or a failed connection with `status` 0. */
export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Store the token until this tab is closed. */
export function setToken(token) {
  sessionStorage.setItem(TOKEN_KEY, token);
}

/** Return whether the request failed only because a newer one replaced it. */
export function isSuperseded(error) {
  return error.name === "AbortError";
}

export const openapi = () => getJson("openapi.json");
export const models = () => getJson("v1/models");
export const predict = (model, image, signal) => postImage("v1/predict", { model, top_k: 10 }, image, signal);
export const detect = (model, image, signal) => postImage("v1/predict", { model }, image, signal);
export const block = (model, name, ablation, image) => postAblation("v1/block", { model, block: name }, ablation, image);
export const lesion = (model, ablation, image) => postAblation("v1/lesion", { model }, ablation, image);
export const curve = (model, image, query = {}) => postImage("v1/lesion/curve", { model, ...query }, image);
export const samples = (model, n) => getJson(`v1/models/${encodeURIComponent(model)}/samples`, { n });
export const run = (model, since) => getJson(`v1/models/${encodeURIComponent(model)}/run`, { since });
export const confusionCell = (model, cell, signal) => getJson(`v1/models/${encodeURIComponent(model)}/confusion`, cell, signal);

/** Request a heatmap by `method` for the class `name`, or for the top class. */
export function explain(model, method, name, ablation, image) {
  return postAblation("v1/explain", name ? { model, method, class: name } : { model, method }, ablation, image);
}

/** Request the heatmap of a class in a mask, by name. */
export const explainMask = (model, name, image) => postAblation("v1/explain", { model, class: name }, {}, image);

/** Request the heatmap of a box by its number. */
export const explainBox = (model, box, ablation, image) => postAblation("v1/explain", { model, box }, ablation, image);

/** Request an evaluation image of the run as a Blob. */
export async function sample(model, id) {
  return (await request(`v1/models/${encodeURIComponent(model)}/samples/${encodeURIComponent(id)}.png`)).blob();
}

/** Request the drawing of a block as a Blob (SVG). */
export async function blockDrawing(model, name) {
  return (await request(`v1/models/${encodeURIComponent(model)}/blocks/${encodeURIComponent(name)}.svg`)).blob();
}

/** Call a route of the OpenAPI description with these parameter values; return the raw response. */
export function callRoute(route, values, body) {
  const [path, query] = routeUrl(route, values).slice(2).split("?");
  const options = body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  return request(path, query, { method: route.method.toUpperCase(), ...options });
}

async function getJson(path, query = {}, signal = undefined) {
  return (await request(path, query, { signal })).json();
}

async function postImage(path, query, image, signal) {
  // The server detects the format from the bytes; the browser only guesses a type from the file name.
  const headers = image ? { "Content-Type": "application/octet-stream" } : {};
  return (await request(path, query, { method: "POST", body: image, headers, signal })).json();
}

/** Post an image with an ablation: the blocks `off` and the pairs to `swap`. */
async function postAblation(path, query, ablation, image) {
  const body = new FormData();
  body.append("image", image, "image");
  body.append("ablation", JSON.stringify(ablation));
  return (await request(path, query, { method: "POST", body })).json();
}

async function request(path, query = {}, options = {}) {
  const response = await send(path, query, options);
  if (response.status === 429) {
    await pause(response.headers.get("Retry-After"));
    return checkResponse(await send(path, query, options));
  }
  return checkResponse(response);
}

async function send(path, query, options) {
  const token = sessionStorage.getItem(TOKEN_KEY);
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  try {
    return await fetch(`${path}?${new URLSearchParams(query)}`, { ...options, headers });
  } catch (error) {
    if (isSuperseded(error)) throw error;
    throw new ServerError(0, "The server cannot be reached. Check that it is still running.");
  }
}

async function checkResponse(response) {
  if (response.ok) return response;
  const payload = await response.json().catch(() => ({}));
  throw new ServerError(response.status, payload.error ?? `The server responded with status ${response.status}.`);
}

function pause(seconds) {
  const wait = Math.min(Number(seconds) || 1, MAX_RETRY_SECONDS);
  return new Promise((resolve) => setTimeout(resolve, 1000 * wait));
}
