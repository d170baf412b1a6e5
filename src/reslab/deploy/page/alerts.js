// What went wrong, said where everyone hears it.

import { element } from "./elements.js";
import { overtaken } from "./api.js";

const place = () => document.getElementById("alerts");

/** Say it, after the words of `before`; it stays until it is put away or something works. */
export function tell(message, before = "") {
  const away = element("button", { class: "button", type: "button", onclick: quiet }, "Put away");
  place().replaceChildren(element("div", { class: "alert" }, element("p", {}, before + sentences(message)), away));
}

/** "required: a picture; got: a text; save it" as three sentences. */
function sentences(message) {
  const parts = message.split("; ").map((part) => part[0].toUpperCase() + part.slice(1));
  return parts.join(". ").replace(/([^.?!])$/, "$1.");
}

/** Nothing is wrong any more. */
export function quiet() {
  place().replaceChildren();
}

/** What `work` comes to; where it fails that is told, and the value is undefined. */
export async function attempt(work, before = "") {
  try {
    return await work();
  } catch (error) {
    if (!overtaken(error)) tell(error.message, before);
    return undefined;
  }
}
