// What keys do; the page lists them under `?`.

import { byId } from "/dom.js";

const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
const MOVES = { ArrowLeft: [0.1, 0], ArrowUp: [0, 0.1], ArrowRight: [-0.1, 0], ArrowDown: [0, -0.1] };

const isTyped = (target) => target.matches("input[type=number], textarea");

function withControl(event, { undo, redo }) {
  const key = event.key.toLowerCase();
  if (key === "z") return event.shiftKey ? redo : undo;
  return key === "y" ? redo : null;
}

function alone(event, actions) {
  const { key, target } = event;
  if (target.matches("select")) return null; // it finds its entries by letters
  if (key === "+" || key === "=") return () => actions.zoom(Math.SQRT2);
  if (key === "-" || key === "_") return () => actions.zoom(Math.SQRT1_2);
  if (key === "0") return actions.reset;
  if (key === "Delete") return actions.remove;
  if (key === "?") return showKeys;
  if (!(key in STEPS)) return null;
  if (event.shiftKey) return target.closest(".stage") && (() => actions.pan(MOVES[key]));
  return target.closest(".stage, #objects") && (() => actions.step(STEPS[key]));
}

function showKeys() {
  byId("keys").showModal();
}

let tabbed = false; // whether the keyboard was used last to choose a control

// Space and a drag move the picture. A control that was reached by Tab keeps its space.
function isForPanning({ target }) {
  const isControl = tabbed && target.matches("button, a, input, select, summary");
  return !isControl && Boolean(document.querySelector(".stage:hover"));
}

function watchSpace() {
  document.addEventListener("pointerdown", () => (tabbed = false), { capture: true });
  const panning = (on) => document.body.classList.toggle("panning", on);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Tab") tabbed = true;
    if (event.key !== " " || !isForPanning(event)) return;
    event.preventDefault();
    panning(true);
  });
  document.addEventListener("keyup", (event) => {
    if (event.key !== " " || !document.body.classList.contains("panning")) return;
    event.preventDefault();
    panning(false);
  });
  window.addEventListener("blur", () => panning(false));
}

// `actions`: undo, redo, zoom(factor), reset, pan(shares of the stage), remove, step(by), cancel (tells whether it did).
export function watchKeys(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || byId("keys").open) return;
    if (event.key === "Escape") {
      if (actions.cancel()) event.preventDefault();
      return;
    }
    if (isTyped(event.target) || event.altKey) return;
    const action = event.ctrlKey || event.metaKey ? withControl(event, actions) : alone(event, actions);
    if (!action) return;
    event.preventDefault();
    action();
  });
  watchSpace();
  byId("keys-open").addEventListener("click", showKeys);
  byId("keys-close").addEventListener("click", () => byId("keys").close());
}
