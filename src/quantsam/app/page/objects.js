// The list of objects: which one is chosen, and a button to delete each.

import { button, byId, element, redraw } from "/dom.js";
import { describe, objectsOf } from "/prompts.js";

function row(object, index, chosen, { choose, remove }) {
  const name = `object ${index + 1}`;
  const text = `${index + 1}: ${describe(object)}`;
  const one = button(text, `${name}: ${describe(object)}`, `object-${index}`, () => choose(index));
  one.setAttribute("aria-pressed", String(index === chosen));
  const cross = button("\u00d7", `Delete ${name}`, `delete-${index}`, () => remove(index));
  cross.className = "delete";
  return element("li", {}, one, cross);
}

let drawn = "";

export function fillObjects(prompts, chosen, actions) {
  const objects = objectsOf(prompts);
  const now = JSON.stringify([objects, chosen]);
  if (now === drawn) return;
  drawn = now;
  const list = byId("objects");
  list.hidden = !objects.length;
  redraw(list, () => list.replaceChildren(...objects.map((object, i) => row(object, i, chosen, actions))));
}

// Moves the focus along when the chosen object changes by keys within the list.
export function focusChosen(chosen) {
  const list = byId("objects");
  if (list.contains(document.activeElement)) list.querySelector(`[data-key="object-${chosen}"]`)?.focus();
}
