// What went wrong, said where everyone hears it.

import { element, keepingFocus } from "./elements.js";
import { overtaken } from "./api.js";

const place = () => document.getElementById("alerts");

let before = null;

/** Say it, after the words of `before`; it stays until it is put away or something works. */
export function tell(message, opening = "") {
  if (!place().contains(document.activeElement)) before = document.activeElement;
  const said = opening + sentences(message);
  if (place().querySelector("p")?.textContent === said) return;
  const away = element("button", { class: "button", type: "button", onclick: quiet }, "Put away");
  place().replaceChildren(element("div", { class: "alert" }, element("p", {}, said), away));
}

/** "required: a picture; got: a text; save it" as three sentences. */
function sentences(message) {
  const parts = message.split("; ").map((part) => part[0].toUpperCase() + part.slice(1));
  return parts.join(". ").replace(/([^.?!])$/, "$1.");
}

/** Nothing is wrong any more; the focus goes back to where it was when it was told. */
export function quiet() {
  keepingFocus(() => place().replaceChildren(), () => (before?.isConnected ? before : document.getElementById("benches")));
}

/** What `work` comes to; where it fails that is told, and the value is undefined. */
export async function attempt(work, opening = "") {
  try {
    return await work();
  } catch (error) {
    if (!overtaken(error)) tell(error.message, opening);
    return undefined;
  }
}
