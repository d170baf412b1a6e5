// The choice of an image: dropped, pasted, selected, taken by camera, or a validation or test image of the run.

import * as api from "./api.js";
import { attempt, showAlert } from "./alerts.js";
import { capitalize, element } from "./elements.js";
import { thumbnail } from "./gallery.js";
import { newest } from "./requests.js";

const MAX_BYTES = 1 << 20;
const MAX_SIDE = 1600;
const NUM_SAMPLES = 24;

/** The image picker; each image calls `onImage(blob, info)` with its name and, for an image of the run, its split and label. */
export function makeImagePicker(onImage) {
  const preview = element("img", { class: "preview", alt: "" , hidden: true });
  const caption = element("p", { class: "note image-caption" }, "Drop an image anywhere on this page, or paste one.");
  const gallery = element("div", { class: "samples", role: "group", "aria-label": "Images of the run" });
  const start = newest();
  let numPending = 0;
  const onFile = (file) => attempt(() => setImage(() => file, { name: file.name || "pasted image" }), `${file.name || "The image"} could not be opened. `);

  /** Show what `load()` returns, unless another image is chosen before it is there. */
  async function setImage(load, info) {
    const isNewest = start();
    numPending += 1;
    try {
      const { blob, note } = await downscale(await load());
      if (!isNewest()) return;
      await onImage(blob, info);
      if (isNewest()) show(blob, note, info);
    } finally {
      numPending -= 1;
    }
  }

  function show(blob, note, info) {
    // The preview changes only after success: after a failure the previous image stays, with its results.
    if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(blob);
    preview.hidden = false;
    const title = info.label ? `${capitalize(info.split)} image, labeled ${info.label}` : info.name;
    preview.alt = title;
    caption.textContent = [title, note].filter(Boolean).join(". ");
    markSelected(gallery, info.id);
  }

  let currentKey = null;
  preview.addEventListener("error", () => { preview.hidden = true; });
  const takeSample = (model, sample) => attempt(() => setImage(() => api.sample(model, sample.id), sample));
  const buttons = element("div", { class: "row" }, fileButton("Choose an image", onFile), fileButton("Take a photo", onFile, true));
  listenForFiles(onFile);
  return {
    chooser: element("div", { class: "stage-image" }, preview, caption, buttons),
    gallery,
    takeSample,
    /** Whether a chosen image is still being opened. */
    isBusy: () => numPending > 0,
    /** Show the images of the first model that has some; resolves to [name, samples], empty if superseded. */
    async showSamples(models) {
      const key = (currentKey = models.join("\n"));
      for (const model of models) {
        const response = await api.samples(model, NUM_SAMPLES).catch(() => ({ samples: [] }));
        const samples = response.samples.map((sample) => ({ ...sample, split: response.split }));
        const nodes = await Promise.all(samples.map((sample) => thumbnail(model, sample, () => takeSample(model, sample))));
        if (currentKey !== key) return ["", []];
        if (gallery.dataset.model !== model || !nodes.length) gallery.replaceChildren(...nodes);
        gallery.dataset.model = model;
        gallery.hidden = nodes.length === 0;
        if (nodes.length) return [model, samples];
      }
      return ["", []];
    },
  };
}

function fileButton(text, onFile, camera = false) {
  const input = element("input", {
    type: "file",
    accept: "image/*",
    class: "visually-hidden",
    id: camera ? "camera" : "file",
    capture: camera && "environment",
    onchange: () => {
      if (input.files.length) onFile(input.files[0]);
      input.value = ""; // so that the same file can be chosen again
    },
  });
  return element("label", { class: camera ? "button camera" : "button main" }, input, text);
}

function listenForFiles(onFile) {
  const over = (on) => document.body.classList.toggle("dropping", on);
  document.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(false); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    const file = event.dataTransfer.files[0];
    if (file) onFile(file);
    else showAlert("That was not a file. Save the image first, then drop the file here.");
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files][0];
    if (file) onFile(file);
  });
}

/** Downscale a large photo, so that switches react quickly over a slow connection; return other files unchanged. */
async function downscale(file) {
  if (file.size <= MAX_BYTES || !file.type.startsWith("image/")) return { blob: file };
  const bitmap = await createImageBitmap(file).catch(() => null);
  const scale = bitmap ? MAX_SIDE / Math.max(bitmap.width, bitmap.height) : 1;
  if (scale >= 1) return { blob: file };
  const [width, height] = [Math.round(scale * bitmap.width), Math.round(scale * bitmap.height)];
  const canvas = element("canvas", { width, height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  return { blob, note: `Sent as ${width} x ${height}` };
}

function markSelected(gallery, id) {
  for (const sample of gallery.children) sample.setAttribute("aria-pressed", String(sample.dataset.id === String(id)));
}
