// The page put together.

import * as api from "./api.js";
import { attempt, quiet, tell } from "./alerts.js";
import { makeComparison } from "./compare.js";
import { makeHeatControls } from "./heat.js";
import { makePicture } from "./picture.js";
import { makeRun } from "./run.js";

const RUNNING_AGAIN_MILLISECONDS = 3000;
const content = document.getElementById("content");
const door = document.getElementById("door");

async function begin() {
  const { models } = await api.models();
  door.hidden = true;
  content.hidden = false;
  const heat = makeHeatControls(() => benches.each((bench) => bench.explain()), () => benches.each((bench) => bench.strength()));
  const picture = makePicture((blob, told) => benches.take(blob, told));
  const run = makeRun(document.getElementById("run"), takeSample, renew);
  const benches = makeComparison(models, heat, turnTo);
  document.getElementById("picture").append(picture.chosen, heat.node, picture.gallery);

  async function turnTo(model) {
    run.show(model);
    const samples = await picture.offer(model.name);
    if (samples.length && !benches.busy()) await picture.takeSample(model.name, samples[0]);
  }

  function takeSample(model, row) {
    document.getElementById("look").scrollIntoView();
    return picture.takeSample(model.name, row);
  }

  /** A run has ended: its weights can be asked from now on. */
  async function renew() {
    const found = await attempt(api.models);
    if (found) benches.renew(found.models);
    if (!benches.model().finished) setTimeout(renew, RUNNING_AGAIN_MILLISECONDS);
    else await turnTo(benches.model());
  }

  await turnTo(benches.model());
}

/** The token is asked for where the service wants one; all else that keeps the page from beginning is told. */
async function knock(again = false) {
  try {
    await begin();
    quiet();
  } catch (error) {
    if (error.status !== 401) return tell(error.message);
    if (again) tell("That is not the token of this service. Try it once more.");
    door.hidden = false;
    door.querySelector("input").focus();
  }
}

door.addEventListener("submit", (event) => {
  event.preventDefault();
  api.enter(door.querySelector("input").value);
  knock(true);
});

knock();
