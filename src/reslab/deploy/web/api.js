// The service, as functions. Every failure is a ServiceError whose message can be shown as it is.

import { wayTo } from "./curl.js";

const TOKEN = "reslab-token";
const MOST_PATIENT_SECONDS = 5;

/** What the service, or the way to it, said. `status` is 0 where there was no answer at all. */
export class ServiceError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Keep the token for as long as this tab is open. */
export function enter(token) {
  sessionStorage.setItem(TOKEN, token);
}

/** Whether it is only that a newer question took the place of this one. */
export function overtaken(error) {
  return error.name === "AbortError";
}

export const description = () => read("openapi.json");
export const models = () => read("v1/models");
export const predict = (model, picture, signal) => show("v1/predict", { model, top_k: 10 }, picture, signal);
export const unit = (model, name, plan, picture) => showCut("v1/block", { model, block: name }, plan, picture);
export const lesion = (model, plan, picture) => showCut("v1/lesion", { model }, plan, picture);
export const curve = (model, picture) => show("v1/lesion/curve", { model }, picture);
export const samples = (model, n) => read(`v1/models/${encodeURIComponent(model)}/samples`, { n });
export const run = (model, since) => read(`v1/models/${encodeURIComponent(model)}/run`, { since });
export const confused = (model, cell, signal) => read(`v1/models/${encodeURIComponent(model)}/confusion`, cell, signal);

/** The heat map of `method` for the class of this name, or for the most probable one. */
export function explain(model, method, name, plan, picture) {
  return showCut("v1/explain", name ? { model, method, class: name } : { model, method }, plan, picture);
}

/** One of the run's test pictures, as a file's bytes. */
export async function sample(model, id) {
  return (await ask(`v1/models/${encodeURIComponent(model)}/samples/${encodeURIComponent(id)}.png`)).blob();
}

/** Any way of the description, asked with these values; the answer as it comes. Rejects as all others do. */
export function trial(way, values, body) {
  const [path, query] = wayTo(way, values).slice(2).split("?");
  const sent = body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  return ask(path, query, { method: way.method.toUpperCase(), ...sent });
}

async function read(path, query = {}, signal = undefined) {
  return (await ask(path, query, { signal })).json();
}

async function show(path, query, picture, signal) {
  // The service looks at the bytes, not at what a file's name makes the browser believe.
  const headers = picture ? { "Content-Type": "application/octet-stream" } : {};
  return (await ask(path, query, { method: "POST", body: picture, headers, signal })).json();
}

/** Show a picture to the network with `plan.off` switched off and the pairs of `plan.swap` exchanged. */
async function showCut(path, query, plan, picture) {
  const body = new FormData();
  body.append("image", picture, "picture");
  body.append("ablation", JSON.stringify(plan));
  return (await ask(path, query, { method: "POST", body })).json();
}

async function ask(path, query = {}, facts = {}) {
  const answer = await sent(path, query, facts);
  if (answer.status === 429) {
    await pause(answer.headers.get("Retry-After"));
    return checked(await sent(path, query, facts));
  }
  return checked(answer);
}

async function sent(path, query, facts) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...facts.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  try {
    return await fetch(`${path}?${new URLSearchParams(query)}`, { ...facts, headers });
  } catch (error) {
    if (overtaken(error)) throw error;
    throw new ServiceError(0, "The service cannot be reached. Is it still running? What is shown stays.");
  }
}

async function checked(answer) {
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new ServiceError(answer.status, told.error ?? `The service answered ${answer.status}.`);
}

function pause(seconds) {
  const wait = Math.min(Number(seconds) || 1, MOST_PATIENT_SECONDS);
  return new Promise((resolve) => setTimeout(resolve, 1000 * wait));
}
