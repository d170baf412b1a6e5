// Error messages, in an alert region that screen readers announce.

import { element, keepFocus } from "./elements.js";
import { isSuperseded } from "./api.js";

const container = () => document.getElementById("alerts");

let focusedBefore = null;

/** Show an error message after `prefix`; it stays until it is dismissed or a request succeeds. */
export function showAlert(message, prefix = "") {
  if (!container().contains(document.activeElement)) focusedBefore = document.activeElement;
  const text = prefix + sentences(message);
  if (container().querySelector("p")?.textContent === text) return;
  const dismiss = element("button", { class: "button", type: "button", onclick: clearAlert }, "Dismiss");
  container().replaceChildren(element("div", { class: "alert" }, element("p", {}, text), dismiss));
}

/** Return "required: an image; got: a text; save it" as three sentences. */
function sentences(message) {
  const parts = message.split("; ").map((part) => part[0].toUpperCase() + part.slice(1));
  return parts.join(". ").replace(/([^.?!])$/, "$1.");
}

/** Remove the message; the focus returns to where it was before. */
export function clearAlert() {
  keepFocus(() => container().replaceChildren(), () => (focusedBefore?.isConnected ? focusedBefore : document.getElementById("model-panels")));
}

/** Return the result of `action`, or show its error and return undefined. */
export async function attempt(action, prefix = "") {
  try {
    return await action();
  } catch (error) {
    if (!isSuperseded(error)) showAlert(error.message, prefix);
    return undefined;
  }
}
