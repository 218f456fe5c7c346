// Connects the page's controls with what they do.

import { ask } from "/asking.js";
import { addBox, addPoint, attempt, change, choose, clickPoint, doAgain, pick, remove, step, takeBack } from "/changes.js";
import { byId, chosen, complain, element } from "/dom.js";
import { watchFiles } from "/files.js";
import { watchKeys } from "/keys.js";
import { setSplit } from "/panels.js";
import { open, openFile, save } from "/picture.js";
import { cancelDrag } from "/pointer.js";
import { NOTHING } from "/prompts.js";
import { getOptions, takeExample } from "/server.js";
import { arrange, setView, show, showPrompts, showWith } from "/show.js";
import { settings, state } from "/state.js";
import { panned, WHOLE, zoomed } from "/zoom.js";

function numbers(ids) {
  return ids.map((id) => {
    const value = byId(id).valueAsNumber;
    if (!Number.isFinite(value)) throw new Error(`fill in all of ${ids.length === 4 ? "left, top, right, bottom" : "x, y"} with numbers`);
    return value;
  });
}

function onSubmit(id, action) {
  byId(id).addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(action);
  });
}

const onClick = (id, action) => byId(id).addEventListener("click", action);

function watchPrompts() {
  onClick("undo", takeBack);
  onClick("redo", doAgain);
  onClick("delete", () => remove());
  onClick("clear", () => change(NOTHING));
  onClick("everything", () => attempt(() => change({ ...NOTHING, everything: true })));
  onSubmit("box-form", () => addBox(numbers(["x0", "y0", "x1", "y1"])));
  onSubmit("point-form", () => addPoint(numbers(["px", "py"]), Number(chosen("label"))));
}

function watchView() {
  const zoom = (factor) => setView(zoomed(state.view, factor));
  const reset = () => setView(WHOLE);
  const pan = (shares) => setView(panned(state.view, shares));
  onClick("zoom-in", () => zoom(Math.SQRT2));
  onClick("zoom-out", () => zoom(Math.SQRT1_2));
  onClick("zoom-reset", reset);
  watchKeys({ undo: takeBack, redo: doAgain, remove: () => remove(), step, zoom, reset, pan, cancel: cancelDrag });
}

function watchSave() {
  for (const kind of ["mask", "cutout", "coco"]) onClick(`save-${kind}`, () => save(kind));
}

function watchChoices() {
  const again = () => {
    arrange();
    ask();
  };
  const anew = () => {
    state.picked = new Map();
    again();
  };
  byId("schemes").addEventListener("change", again);
  byId("model").addEventListener("change", () => {
    suggestGrid();
    anew();
  });
  byId("engine").addEventListener("change", () => {
    explainEngine();
    anew();
  });
  for (const input of document.querySelectorAll("input[name=mode]")) input.addEventListener("change", arrange);
  byId("over").addEventListener("change", arrange);
  byId("differences").addEventListener("change", show);
  byId("split").addEventListener("input", ({ target }) => setSplit(byId("panels"), target.value));
  new ResizeObserver(showPrompts).observe(byId("panels"));
}

function suggestGrid() {
  byId("side").value = settings().points_per_side;
  byId("min-iou").value = settings().min_iou;
}

function explainEngine() {
  byId("engine-hint").textContent =
    byId("engine").value === "pytorch"
      ? "Quantized masks are simulated in PyTorch: their encoder times are the simulation's."
      : "FP32 and the schemes run in this engine; the schemes with real integer kernels.";
}

function schemeChoice({ name, description }, checked) {
  const input = element("input", { type: "checkbox", value: name, checked });
  return element("label", {}, input, name, element("span", { className: "hint", textContent: description }));
}

function exampleButton(number, index) {
  const image = element("img", { src: `/api/examples/${number}`, alt: `Example ${index + 1}`, width: 128, height: 128 });
  const button = element("button", { type: "button" }, image);
  const name = `example-${index + 1}.png`;
  button.addEventListener("click", () => open(() => takeExample(number), name, `opening example ${index + 1}`));
  return button;
}

function offer({ models, schemes: offered, engines, examples }) {
  byId("model").append(...models.map(({ name }) => new Option(name, name)));
  byId("engine").append(...engines.map(({ name }) => new Option(name === "pytorch" ? "simulated (PyTorch)" : name, name)));
  byId("schemes").append(...offered.map((scheme, index) => schemeChoice(scheme, index === 0)));
  byId("examples").append(...examples.map(exampleButton));
  suggestGrid();
  explainEngine();
}

async function start() {
  try {
    state.options = await getOptions();
  } catch (error) {
    return complain(error);
  }
  offer(state.options);
  showWith({ choose, remove, pick, onBox: addBox, onPoint: clickPoint });
  watchFiles(openFile);
  watchPrompts();
  watchView();
  watchSave();
  watchChoices();
  arrange();
  document.body.dataset.ready = "";
  return undefined;
}

start();
