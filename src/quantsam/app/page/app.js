// The page's state and what happens when something in it changes.

import { fillPanels, layOut, meanIou, setSplit } from "/panels.js";
import { checkBox, checkPoint, drawPrompts, isEmpty, NOTHING, watchPointer, withBox, withPoint } from "/prompts.js";
import { askMasks, getOptions, sendPicture, takeExample } from "/server.js";

const byId = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
const state = {
  options: null,
  picture: null,
  prompts: NOTHING,
  history: [],
  rubber: null,
  results: new Map(),
  running: null, // the AbortController of the request under way
  refusal: false, // the status line says why a picture was refused: the request under way leaves it there
};

let ticking = 0;
let opened = 0; // number of the picture that was asked for last

// Shows what is going on; while busy also for how long.
function say(text, { busy = false, error = false } = {}) {
  const line = byId("status");
  line.classList.toggle("busy", busy);
  line.classList.toggle("error", error);
  byId("status-text").textContent = text;
  if (busy && ticking) return;
  clearInterval(ticking);
  ticking = 0;
  byId("status-time").textContent = "";
  if (!busy) return;
  const start = performance.now();
  ticking = setInterval(() => {
    byId("status-time").textContent = `${Math.round((performance.now() - start) / 1000)} s`;
  }, 1000);
}

const complain = (error) => say(error.message, { error: true });

const schemes = () => [...document.querySelectorAll("#schemes input:checked")].map((input) => input.value);
const everything = () => state.prompts.everything;

function show() {
  const reference = state.options.reference;
  const differences = byId("differences").checked;
  byId("legend").hidden = !differences;
  fillPanels(byId("panels"), { reference, results: state.results, everything: everything(), differences, busy: Boolean(state.running) });
  showPrompts();
}

function showPrompts() {
  byId("undo").disabled = !state.history.length;
  byId("clear").disabled = isEmpty(state.prompts);
  byId("everything").disabled = !state.picture;
  if (!state.picture) return;
  for (const svg of document.querySelectorAll("#panels svg")) drawPrompts(svg, state.picture, state.prompts, state.rubber);
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
function arrange() {
  const over = overlaid();
  byId("empty").hidden = Boolean(state.picture);
  if (!state.picture) return showPrompts();
  const names = schemes();
  const reference = state.options.reference;
  const stages = layOut(byId("panels"), { picture: state.picture, reference, names, over, onSplit: moveSplit });
  const onRubber = (box) => {
    state.rubber = box;
    showPrompts();
  };
  for (const stage of stages) watchPointer(stage, state.picture, { onBox: addBox, onPoint: clickPoint, onRubber });
  return show();
}

function moveSplit(percent) {
  byId("split").value = percent;
  setSplit(byId("panels"), percent);
}

function change(prompts) {
  state.history.push(state.prompts);
  state.prompts = prompts;
  return ask();
}

// Runs an action of the user's; what it refuses is shown.
function attempt(action) {
  try {
    if (!state.picture) throw new Error("choose a picture first");
    return action();
  } catch (error) {
    return complain(error);
  }
}

const addBox = (box) => attempt(() => change(withBox(state.prompts, checkBox(box, state.picture), byId("keep").checked)));

const addPoint = (point, label) => attempt(() => change(withPoint(state.prompts, checkPoint(point, state.picture), label)));

const clickPoint = (point, background) => addPoint(point, background ? 0 : Number(chosen("label")));

function undo() {
  if (!state.history.length) return;
  state.prompts = state.history.pop();
  ask();
}

function request() {
  const { boxes, points, labels } = state.prompts;
  const asked = { picture: state.picture.picture, model: byId("model").value, engine: byId("engine").value, schemes: schemes() };
  if (!everything()) return { ...asked, boxes, points, labels };
  const { min_stability } = settings();
  const grid = { points_per_side: Number(byId("side").value), min_iou: Number(byId("min-iou").value), min_stability };
  return { ...asked, everything: true, grid };
}

const settings = () => state.options.models.find(({ name }) => name === byId("model").value).everything;

function stop() {
  state.running?.abort();
  state.running = null;
  state.results = new Map();
}

// Asks for the masks of the present prompts; what was asked before, or of another picture, is dropped.
async function ask() {
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
  show();
  say("asking the server", { busy: true });
  try {
    for await (const event of askMasks(request(), running.signal)) {
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
  const parts = [...state.results.values()].filter((panel) => panel.ious).map((panel) => {
    const iou = meanIou(panel);
    return iou === null ? `${panel.name}: FP32 found no masks` : `${panel.name}: IoU ${(100 * iou).toFixed(1)} %`;
  });
  if (!parts.length) parts.push("tick a scheme to compare with FP32");
  const cut = [...state.results.values()].filter((panel) => panel.left_out);
  parts.push(...cut.map((panel) => `${panel.name}: ${panel.left_out} masks left out, the best ${panel.masks.length} are shown`));
  return say(`done; ${parts.join(", ")}`);
}

function fail(error) {
  state.running = null;
  show();
  complain(error);
}

// Shows a picture once it is here, unless another one was asked for since; a refusal leaves all as it is.
async function open(load, what) {
  const number = ++opened;
  state.refusal = false;
  say(what, { busy: true });
  try {
    const picture = await load();
    if (number === opened) changePicture(picture);
  } catch (error) {
    if (number === opened) refuse(error);
  }
}

function changePicture(picture) {
  stop();
  Object.assign(state, { picture, prompts: NOTHING, history: [], rubber: null, refusal: false });
  for (const [id, most] of [["x0", "width"], ["x1", "width"], ["px", "width"], ["y0", "height"], ["y1", "height"], ["py", "height"]]) {
    byId(id).max = picture[most];
  }
  arrange();
  say(`${picture.width} x ${picture.height} pixels; drag a box around an object, or click on it`);
}

function refuse(error) {
  state.refusal = true;
  complain(error);
}

function openFile(file) {
  if (!file) return undefined;
  const most = state.options.upload_bytes;
  if (file.size > most) {
    return refuse(new Error(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB, a picture may have at most ${most / 1e6} MB`));
  }
  return open(() => sendPicture(file), `sending ${file.name}`);
}

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

function fromFiles(transfer, event) {
  const [file] = transfer?.files ?? [];
  if (!file) return;
  event.preventDefault();
  openFile(file);
}

function watchFiles() {
  byId("file").addEventListener("change", ({ target }) => {
    openFile(target.files[0]);
    target.value = ""; // the same file may be chosen again
  });
  document.addEventListener("paste", (event) => fromFiles(event.clipboardData, event));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    fromFiles(event.dataTransfer, event);
  });
}

function watchPrompts() {
  byId("undo").addEventListener("click", undo);
  byId("clear").addEventListener("click", () => change(NOTHING));
  byId("everything").addEventListener("click", () => attempt(() => change({ ...NOTHING, everything: true })));
  onSubmit("box-form", () => addBox(numbers(["x0", "y0", "x1", "y1"])));
  onSubmit("point-form", () => addPoint(numbers(["px", "py"]), Number(chosen("label"))));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || event.target.matches("input[type=number]")) return;
    event.preventDefault();
    undo();
  });
}

function watchChoices() {
  const again = () => {
    arrange();
    ask();
  };
  byId("schemes").addEventListener("change", again);
  byId("model").addEventListener("change", () => {
    suggestGrid();
    again();
  });
  byId("engine").addEventListener("change", () => {
    explainEngine();
    again();
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
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "checkbox", value: name, checked });
  const hint = Object.assign(document.createElement("span"), { className: "hint", textContent: description });
  label.append(input, name, hint);
  return label;
}

function exampleButton(number, index) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  const alt = `Example ${index + 1}`;
  button.append(Object.assign(document.createElement("img"), { src: `/api/examples/${number}`, alt, width: 128, height: 128 }));
  button.addEventListener("click", () => open(() => takeExample(number), `opening example ${index + 1}`));
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
  watchFiles();
  watchPrompts();
  watchChoices();
  arrange();
  document.body.dataset.ready = "";
  return undefined;
}

start();
