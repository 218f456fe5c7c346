// Shows the state: panels, prompts, the list of objects, what can be saved.

import { sharpen } from "/detail.js";
import { byId, chosen } from "/dom.js";
import { drawPrompts } from "/draw.js";
import { canRedo, canUndo } from "/history.js";
import { fillObjects } from "/objects.js";
import { fillPanels, layOut, setSplit } from "/panels.js";
import { watchPointer } from "/pointer.js";
import { isEmpty } from "/prompts.js";
import { fillSave } from "/saving.js";
import { answered, countObjects, reference, schemes, state } from "/state.js";
import { applyView } from "/zoom.js";

let actions = null; // what is called when something on the panels is used

export function showWith(given) {
  actions = given;
}

export function show() {
  const differences = byId("differences").checked;
  byId("legend").hidden = !differences;
  fillPanels(byId("panels"), {
    reference: reference(),
    results: state.results,
    picked: state.picked,
    object: state.chosen,
    pick: actions.pick,
    everything: state.prompts.everything,
    differences,
    busy: Boolean(state.running),
  });
  showSave();
  showPrompts();
}

export function showSave() {
  const { chosen: object, saving } = state;
  fillSave({ panels: answered(), reference: reference(), objects: countObjects(), object, saving });
}

export function showPrompts() {
  byId("undo").disabled = !canUndo(state.history);
  byId("redo").disabled = !canRedo(state.history);
  byId("delete").disabled = !countObjects();
  byId("clear").disabled = isEmpty(state.prompts);
  byId("everything").disabled = !state.picture;
  fillObjects(state.prompts, state.chosen, actions);
  if (!state.picture) return;
  for (const svg of document.querySelectorAll("#panels svg")) drawPrompts(svg, state.picture, state.prompts, state);
}

export function setView(view) {
  if (!state.picture) return;
  state.view = view;
  const root = byId("panels");
  applyView(root, view);
  byId("zoom-level").textContent = `${Math.round(100 * view.zoom)} %`;
  showPrompts();
  const width = root.querySelector(".stage").clientWidth;
  root.classList.toggle("close", view.zoom * width > 3 * state.picture.view_width); // then pixels are shown as squares
  sharpen(state.picture, width, view.zoom, (source) => {
    for (const image of root.querySelectorAll("img")) image.src = source;
  });
}

function overlaid() {
  const names = schemes();
  const slider = chosen("mode") === "slider" && names.length > 0;
  byId("over-field").hidden = !slider;
  byId("split-field").hidden = !slider || !state.picture;
  const select = byId("over");
  const before = select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === before)));
  return slider ? select.value : null;
}

// Lays the panels out anew: after another picture, scheme or view.
export function arrange() {
  const over = overlaid();
  byId("empty").hidden = Boolean(state.picture);
  byId("zoom").hidden = !state.picture;
  if (!state.picture) return showPrompts();
  const names = schemes();
  const stages = layOut(byId("panels"), { picture: state.picture, reference: reference(), names, over, onSplit: moveSplit });
  const onRubber = (box) => {
    state.rubber = box;
    showPrompts();
  };
  const view = { get: () => state.view, set: setView };
  for (const stage of stages) watchPointer(stage, state.picture, view, { ...actions, onRubber });
  show();
  return setView(state.view);
}

function moveSplit(share) {
  byId("split").value = share;
  setSplit(byId("panels"), share);
}
