// Asks for masks, and tells what came.

import { iouName, iousWithFp32, mean, percent } from "/candidates.js";
import { byId, complain, say } from "/dom.js";
import { isEmpty } from "/prompts.js";
import { askMasks } from "/server.js";
import { show } from "/show.js";
import { answered, reference, schemes, settings, state } from "/state.js";

function asked() {
  const { boxes, points, labels } = state.prompts;
  const common = { picture: state.picture.picture, model: byId("model").value, engine: byId("engine").value };
  if (!state.prompts.everything) return { ...common, boxes, points, labels };
  const { min_stability } = settings();
  const grid = { points_per_side: Number(byId("side").value), min_iou: Number(byId("min-iou").value), min_stability };
  return { ...common, everything: true, grid };
}

export function stop() {
  state.running?.abort();
  state.running = null;
  state.results = new Map();
}

// Asks for the masks of the present prompts; what was asked before, or of another picture, is dropped.
export async function ask() {
  stop();
  state.refusal = false;
  if (!state.picture || isEmpty(state.prompts)) {
    show();
    return say(state.picture ? "drag a box around an object, or click on it" : "");
  }
  const running = new AbortController();
  const { picture } = state;
  const isPresent = () => state.running === running && state.picture === picture;
  state.running = running;
  state.request = asked();
  show();
  say("asking the server", { busy: true });
  try {
    for await (const event of askMasks({ ...state.request, schemes: schemes() }, running.signal)) {
      if (!isPresent()) return undefined;
      take(event);
    }
    if (isPresent()) finish();
  } catch (error) {
    if (isPresent()) fail(error);
  }
  return undefined;
}

function take(event) {
  if (event.event === "status" && !state.refusal) say(event.text, { busy: true });
  if (event.event === "error") throw new Error(event.error);
  if (event.event !== "panel") return;
  state.results.set(event.name, event);
  show();
}

function finish() {
  state.running = null;
  show();
  if (state.refusal) return undefined;
  const failed = [...state.results.values()].filter((panel) => panel.error);
  if (failed.length) return say(`${failed[0].name}: ${failed[0].error}`, { error: true });
  return sayDone("done");
}

// Tells how the masks that are shown compare.
export function sayDone(first) {
  const panels = answered();
  const parts = panels.filter((panel) => panel.ious).map((panel) => {
    const ious = iousWithFp32(panel, state.results.get(reference()), state.picked);
    return `${panel.name}: ${ious.length ? `${iouName(ious.length)} ${percent(mean(ious))}` : "FP32 found no masks"}`;
  });
  if (!parts.length) parts.push("tick a scheme to compare with FP32");
  const cut = panels.filter((panel) => panel.left_out);
  parts.push(...cut.map((panel) => `${panel.name}: ${panel.left_out} masks left out, the best ${panel.masks.length} are shown`));
  say(`${first}; ${parts.join(", ")}`);
}

function fail(error) {
  state.running = null;
  show();
  complain(error);
}
