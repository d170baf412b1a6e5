// The page put together.

import * as api from "./api.js";
import { attempt, quiet, tell } from "./alerts.js";
import { makeComparison } from "./compare.js";
import { makeHeatControls } from "./heat.js";
import { makePicture } from "./picture.js";
import { makeRuns } from "./run.js";

const RUNNING_AGAIN_MILLISECONDS = 3000;
const content = document.getElementById("content");
const door = document.getElementById("door");

async function begin() {
  const { models } = await api.models();
  door.hidden = true;
  content.hidden = false;
  const heat = makeHeatControls(() => benches.each((bench) => bench.explain()), () => benches.each((bench) => bench.strength()));
  const picture = makePicture((blob, told) => benches.take(blob, told));
  const runs = makeRuns(document.getElementById("run"), takeSample, renew);
  const benches = makeComparison(models, heat, turnTo);
  document.getElementById("picture").append(picture.chosen, heat.node, picture.gallery);

  async function turnTo(chosen) {
    runs.show(chosen);
    const [name, samples] = await picture.offer(chosen.map((model) => model.name));
    if (samples.length && !benches.busy()) await picture.takeSample(name, samples[0]);
  }

  function takeSample(model, row) {
    document.getElementById("look").scrollIntoView();
    document.getElementById("picture-title").focus({ preventScroll: true });
    return picture.takeSample(model.name, row);
  }

  /** A run has ended: its weights can be asked from now on. */
  async function renew(ended) {
    const found = await attempt(api.models);
    if (found) benches.renew(found.models);
    if (!found?.models.find((model) => model.name === ended.name)?.finished) setTimeout(() => renew(ended), RUNNING_AGAIN_MILLISECONDS);
    else await turnTo(benches.models());
  }

  await turnTo(benches.models());
}

/** The token is asked for where the service wants one; all else that keeps the page from beginning is told. */
async function knock(again = false) {
  try {
    await begin();
    quiet();
    if (again) document.getElementById("benches").focus();
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
