// The picture that is looked at: dropped, pasted, picked, photographed, or one of the run's own.

import * as api from "./api.js";
import { attempt, tell } from "./alerts.js";
import { element } from "./elements.js";
import { thumbnail } from "./gallery.js";

const MOST_BYTES = 1 << 20;
const LONGEST_SIDE = 1600;
const NUM_SAMPLES = 24;

/** The chooser; `onPicture(blob, told)` hears of each picture, `told` being its name and, of a test picture, its label. */
export function makePicture(onPicture) {
  const preview = element("img", { class: "preview", alt: "" , hidden: true });
  const said = element("p", { class: "note said" }, "Drop a picture anywhere on this page, or paste one.");
  const gallery = element("div", { class: "samples", role: "group", "aria-label": "Test pictures of the run" });
  const taken = (file) => attempt(() => take(file, { name: file.name || "pasted picture" }), `${file.name || "This"} could not be looked at. `);

  async function take(file, told) {
    const { blob, note } = await fitted(file);
    await onPicture(blob, told);
    // Only what was taken is shown: after a failure the picture before is still there, with its answers.
    if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(blob);
    preview.hidden = false;
    preview.alt = told.label ? `Test picture, labelled ${told.label}` : told.name;
    said.textContent = [told.label ? `Test picture, labelled ${told.label}` : told.name, note].filter(Boolean).join(". ");
    mark(gallery, told.id);
  }

  let offered = null;
  preview.addEventListener("error", () => { preview.hidden = true; });
  const takeSample = (model, one) => attempt(async () => take(await api.sample(model, one.id), one));
  const buttons = element("div", { class: "row" }, fileButton("Choose a picture", taken), fileButton("Photograph", taken, true));
  listen(taken);
  return {
    chosen: element("div", { class: "stage-picture" }, preview, said, buttons),
    gallery,
    takeSample,
    /** Show the test pictures of the first model that has some; resolves to its name and them, to none where others were asked for since. */
    async offer(models) {
      const mine = (offered = models.join("\n"));
      for (const model of models) {
        const { samples } = await api.samples(model, NUM_SAMPLES).catch(() => ({ samples: [] }));
        const nodes = await Promise.all(samples.map((one) => thumbnail(model, one, () => takeSample(model, one))));
        if (offered !== mine) return ["", []];
        if (gallery.dataset.model !== model || !nodes.length) gallery.replaceChildren(...nodes);
        gallery.dataset.model = model;
        gallery.hidden = nodes.length === 0;
        if (nodes.length) return [model, samples];
      }
      return ["", []];
    },
  };
}

function fileButton(text, taken, camera = false) {
  const input = element("input", {
    type: "file",
    accept: "image/*",
    class: "unseen",
    id: camera ? "camera" : "file",
    capture: camera && "environment",
    onchange: () => {
      if (input.files.length) taken(input.files[0]);
      input.value = ""; // so that the same file may be chosen again
    },
  });
  return element("label", { class: camera ? "button camera" : "button main" }, input, text);
}

function listen(taken) {
  const over = (on) => document.body.classList.toggle("dropping", on);
  document.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(false); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    const file = event.dataTransfer.files[0];
    if (file) taken(file);
    else tell("That was no file. Save the picture first, then drop the file here.");
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files][0];
    if (file) taken(file);
  });
}

/** A large photograph made smaller, so that every switch answers at once also over a slow line; others as they are. */
async function fitted(file) {
  if (file.size <= MOST_BYTES || !file.type.startsWith("image/")) return { blob: file };
  const bitmap = await createImageBitmap(file).catch(() => null);
  const scale = bitmap ? LONGEST_SIDE / Math.max(bitmap.width, bitmap.height) : 1;
  if (scale >= 1) return { blob: file };
  const [width, height] = [Math.round(scale * bitmap.width), Math.round(scale * bitmap.height)];
  const canvas = element("canvas", { width, height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  return { blob, note: `Sent as ${width} x ${height}` };
}

function mark(gallery, id) {
  for (const one of gallery.children) one.setAttribute("aria-pressed", String(one.dataset.id === String(id)));
}
