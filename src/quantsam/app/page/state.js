// What the page knows at a time, and short questions about it.

import { byId } from "/dom.js";
import { emptyHistory } from "/history.js";
import { NOTHING, objectsOf } from "/prompts.js";
import { WHOLE } from "/zoom.js";

export const state = {
  options: null,
  picture: null,
  prompts: NOTHING,
  history: emptyHistory(),
  rubber: null,
  chosen: 0, // number of the chosen object
  view: WHOLE,
  results: new Map(), // panels by name
  picked: new Map(), // by name, the numbers of the masks that were picked, by object
  request: null, // what was asked for last
  running: null, // the AbortController of the request under way
  refusal: false, // the status line says why a picture was refused: the request under way leaves it there
  saving: false,
};

export const schemes = () => [...document.querySelectorAll("#schemes input:checked")].map((input) => input.value);
export const reference = () => state.options.reference;
export const countObjects = () => objectsOf(state.prompts).length;

// The panels that have masks.
export const answered = () => [...state.results.values()].filter((panel) => !panel.error);

// How everything is looked for by the chosen model.
export const settings = () => state.options.models.find(({ name }) => name === byId("model").value).everything;
