// What the user does to boxes, points and objects.

import { ask, sayDone } from "/asking.js";
import { iousWithFp32, percent, shownMasks, shownNumbers } from "/candidates.js";
import { byId, chosen, complain, say } from "/dom.js";
import { canRedo, canUndo, redo, remember, undo } from "/history.js";
import { focusChosen } from "/objects.js";
import { checkBox, checkPoint, objectsOf, without, withBox, withPoint } from "/prompts.js";
import { show } from "/show.js";
import { answered, countObjects, reference, state } from "/state.js";

// Takes other prompts and asks for their masks; the object that was added last, or `object`, is chosen.
function become(prompts, object = objectsOf(prompts).length - 1) {
  state.prompts = prompts;
  state.chosen = Math.max(0, Math.min(object, objectsOf(prompts).length - 1));
  state.picked = new Map();
  return ask();
}

export function change(prompts, object) {
  remember(state.history, state.prompts);
  return become(prompts, object);
}

// Runs an action of the user's; what it refuses is shown.
export function attempt(action) {
  try {
    if (!state.picture) throw new Error("choose an image first");
    return action();
  } catch (error) {
    return complain(error);
  }
}

export const addBox = (box) => attempt(() => change(withBox(state.prompts, checkBox(box, state.picture), byId("keep").checked)));

export const addPoint = (point, label) => attempt(() => change(withPoint(state.prompts, checkPoint(point, state.picture), label)));

export const clickPoint = (point, background) => addPoint(point, background ? 0 : Number(chosen("label")));

export const takeBack = () => canUndo(state.history) && become(undo(state.history, state.prompts));

export const doAgain = () => canRedo(state.history) && become(redo(state.history, state.prompts));

export function remove(index = state.chosen) {
  if (countObjects()) change(without(state.prompts, index), index < state.chosen ? state.chosen - 1 : state.chosen);
}

// Makes an object the chosen one, and says what is known of its masks.
export function choose(index) {
  state.chosen = index;
  show();
  focusChosen(index);
  const fp32 = state.results.get(reference());
  const compared = answered().filter((panel) => panel.ious);
  const parts = compared.map((panel) => `${panel.name}: IoU with FP32 ${percent(iousWithFp32(panel, fp32, state.picked)[index])}`);
  if (!state.running) say([`object ${index + 1} of ${countObjects()}`, ...parts].join("; "));
}

export function step(by) {
  const count = countObjects();
  if (count) choose((state.chosen + by + count) % count);
}

// Shows another mask of the chosen object in one panel.
export function pick(name, number) {
  const panel = state.results.get(name);
  const numbers = shownNumbers(panel, state.picked.get(name));
  numbers[state.chosen] = number;
  state.picked.set(name, numbers);
  show();
  if (state.running) return;
  const { predicted_iou } = shownMasks(panel, numbers)[state.chosen];
  const title = name === reference() ? "FP32" : name;
  sayDone(`mask ${number + 1} of ${title}, predicted IoU ${percent(predicted_iou)}`);
}
