// The explorer: assembles the page and asks for the token.

import * as api from "./api.js";
import { attempt, clearAlert, showAlert } from "./alerts.js";
import { makeComparison } from "./comparison.js";
import { makeHeatmapControls } from "./heatmap.js";
import { makeImagePicker } from "./image_picker.js";
import { makeRuns } from "./runs.js";

const RETRY_MILLISECONDS = 3000;
const content = document.getElementById("content");
const tokenForm = document.getElementById("token-form");

async function load() {
  const { models } = await api.models();
  tokenForm.hidden = true;
  content.hidden = false;
  const heatmapControls = makeHeatmapControls(() => panels.each((panel) => panel.explain()), () => panels.each((panel) => panel.updateOpacity()));
  const picker = makeImagePicker((blob, info) => panels.setImage(blob, info));
  const runs = makeRuns(document.getElementById("run"), takeSample, updateModels);
  const panels = makeComparison(models, heatmapControls, showModels);
  document.getElementById("image").append(picker.chooser, heatmapControls.node, picker.gallery);

  async function showModels(chosen) {
    runs.show(chosen);
    heatmapControls.show(chosen.some((model) => !["mask", "boxes"].includes(model.target)), true);
    const [name, samples] = await picker.showSamples(chosen.map((model) => model.name));
    if (samples.length && !panels.hasImage() && !picker.isBusy()) await picker.takeSample(name, samples[0]);
  }

  function takeSample(model, row) {
    document.getElementById("explore").scrollIntoView();
    document.getElementById("image-title").focus({ preventScroll: true });
    return picker.takeSample(model.name, row);
  }

  /** Update the models after a run has finished, until the server has its weights. */
  async function updateModels(finishedModel) {
    const found = await attempt(api.models);
    if (found) panels.updateModels(found.models);
    if (!found?.models.find((model) => model.name === finishedModel.name)?.finished) setTimeout(() => updateModels(finishedModel), RETRY_MILLISECONDS);
    else await showModels(panels.models());
  }

  await showModels(panels.models());
}

/** Load the page; show the token form if the server requires one, and any other error. */
async function start(isRetry = false) {
  try {
    await load();
    clearAlert();
    if (isRetry) document.getElementById("model-panels").focus();
  } catch (error) {
    if (error.status !== 401) return showAlert(error.message);
    if (isRetry) showAlert("The token is wrong. Try again.");
    tokenForm.hidden = false;
    tokenForm.querySelector("input").focus();
  }
}

tokenForm.addEventListener("submit", (event) => {
  event.preventDefault();
  api.setToken(tokenForm.querySelector("input").value);
  start(true);
});

start();
