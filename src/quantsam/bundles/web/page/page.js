// The page's state and what happens when something in it changes.

import { isKept, lacking, settle } from "./host.js";
import { saveCoco, savePng } from "./save.js";
import { drawPrompts, paintMasks, watchPointer } from "./stage.js";

const MOST_THREADS = 4;
const NOTHING = { box: null, points: [], labels: [] };
const byId = (id) => document.getElementById(id);
const state = {
  about: null, // what the bundle says of itself
  picture: null, // { name, width, height }
  prompts: NOTHING,
  history: [],
  masks: [],
  times: {},
  opening: false,
};

let worker = null;
let asked = 0;
const waiting = new Map();

// Asks the worker; what comes of a question that was asked before the last one is null.
function ask(action, given = {}) {
  const id = ++asked;
  worker.postMessage({ id, action, ...given });
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve: (found) => resolve(id === asked ? found : null), reject: (error) => (id === asked ? reject(error) : resolve(null)) });
  });
}

function startWorker() {
  worker = new Worker("segmenter.js", { type: "module" });
  worker.addEventListener("message", ({ data: { id, found, error, progress } }) => {
    if (progress) return showProgress(progress);
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    return error === undefined ? resolve(found) : reject(new Error(error));
  });
  worker.addEventListener("error", ({ message }) => complain(new Error(message || "the worker cannot be loaded: reload the page")));
}

function say(text, isError = false) {
  byId("status").classList.toggle("error", isError);
  byId("status").textContent = text;
}

function complain(error) {
  byId("progress").hidden = true;
  say(error.message, true);
}

function showProgress({ loaded, total, job, unit }) {
  if (!waiting.has(job) || job !== asked) return; // it failed, or something else was asked since
  const bar = byId("progress");
  bar.hidden = loaded >= total;
  bar.value = loaded / total;
  if (unit === "bytes") say(`loading ${(loaded / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`);
}

function figure(title, text) {
  const row = document.createElement("div");
  row.append(Object.assign(document.createElement("dt"), { textContent: title }), Object.assign(document.createElement("dd"), { textContent: text }));
  return row;
}

function show() {
  const { picture, prompts, masks, times, history } = state;
  const usable = Boolean(picture) && !state.opening;
  byId("undo").disabled = !usable || !history.length;
  byId("clear").disabled = !usable || (prompts === NOTHING && !masks.length);
  byId("everything-form").querySelector("button").disabled = !usable;
  for (const id of ["save-png", "save-json"]) byId(id).disabled = !masks.length;
  byId("stage").hidden = !picture;
  if (!picture) return;
  paintMasks(byId("masks"), picture, masks);
  drawPrompts(byId("prompts"), picture, prompts, null);
  const figures = Object.entries(times).map(([title, ms]) => figure(title, `${ms.toFixed(0)} ms`));
  if (masks.length === 1) figures.unshift(figure("predicted IoU", `${(100 * masks[0].iou).toFixed(1)} %`), figure("pixels", masks[0].area));
  if (masks.length > 1) figures.unshift(figure("masks", masks.length));
  byId("figures").replaceChildren(...figures);
}

// Runs an action of the user's; what it refuses is shown.
async function attempt(action) {
  try {
    if (!state.picture) throw new Error("choose an image first");
    if (state.opening) return;
    await action();
  } catch (error) {
    complain(error);
  }
}

function take(found, what) {
  if (!found) return; // something else was asked since
  state.masks = found.masks;
  state.times = { encoder: state.times.encoder, decoder: found.decoderMs };
  byId("progress").hidden = true;
  say(found.masks.length ? `done; ${what(found.masks)}` : "done; no mask is good enough: lower the least predicted IoU, or ask at more points");
  show();
}

// Segments what the prompts point at; without any there is no mask.
async function segment() {
  state.masks = [];
  show();
  const { points, labels, box } = state.prompts;
  if (!box && !points.length) {
    ask("stop"); // what is under way is of no interest any more
    byId("progress").hidden = true;
    return say("drag a box around an object, or click on it");
  }
  if (!box && !labels.includes(1)) throw new Error("at least one point must lie on the object, or a box around it");
  say("segmenting");
  return take(await ask("prompt", { points, labels, box }), ([{ iou, area }]) => `${area} pixels, predicted IoU ${(100 * iou).toFixed(1)} %`);
}

function change(prompts) {
  state.history.push(state.prompts);
  state.prompts = prompts;
  return segment();
}

function undo() {
  if (!state.history.length) return undefined;
  state.prompts = state.history.pop();
  return segment();
}

function inside(values, most, what) {
  values.forEach((value, index) => {
    if (!(value >= 0 && value <= most[index % 2])) {
      throw new Error(`${what} must lie in the image, ${most[0]} x ${most[1]} pixels, got ${value}`);
    }
  });
}

function addBox(box) {
  const { width, height } = state.picture;
  inside(box, [width, height], "a box");
  if (!(box[0] < box[2] && box[1] < box[3])) throw new Error("a box's right must be right of its left, and its bottom below its top");
  return change({ box, points: [], labels: [] });
}

function addPoint(point, label) {
  inside(point, [state.picture.width, state.picture.height], "a point");
  const { box, points, labels } = state.prompts;
  return change({ box, points: [...points, point], labels: [...labels, label] });
}

async function everything({ side, leastIou }) {
  if (!(Number.isInteger(side) && side >= 1 && side <= 64)) throw new Error(`points a side must be a whole number from 1 to 64, got ${side}`);
  if (!(leastIou >= 0 && leastIou <= 1)) throw new Error(`least predicted IoU must be from 0 to 1, got ${leastIou}`);
  state.history.push(state.prompts);
  Object.assign(state, { prompts: NOTHING, masks: [] });
  show();
  say(`asking at ${side * side} points`);
  const leastStability = state.about.everything.stability_threshold;
  take(await ask("everything", { side, leastIou, leastStability }), (masks) => `${masks.length} masks`);
}

// Shows a picture once it is encoded; if it cannot be read, all stays as it is.
async function openPicture(file) {
  if (!state.about) return;
  state.opening = true;
  say(`encoding ${file.name}`);
  show();
  try {
    const found = await ask("open", { file });
    if (!found) return; // another one was chosen since
    URL.revokeObjectURL(byId("image").src);
    byId("image").src = URL.createObjectURL(file);
    const { width, height, encoderMs } = found;
    byId("stage").style.setProperty("--ratio", width / height);
    Object.assign(state, { picture: { name: file.name, width, height }, prompts: NOTHING, history: [], masks: [] });
    state.times = { encoder: encoderMs };
    say(`${width} x ${height} pixels; drag a box around an object, or click on it`);
  } catch (error) {
    complain(error);
  }
  state.opening = false;
  show();
}

async function openExample() {
  const answer = await fetch("example.jpg");
  openPicture(new File([await answer.blob()], "example.jpg", { type: "image/jpeg" }));
}

function numbersOf(form) {
  const inputs = [...form.querySelectorAll("input")];
  if (!inputs.every((input) => Number.isFinite(input.valueAsNumber))) throw new Error("fill in all of the numbers");
  return inputs.map((input) => input.valueAsNumber);
}

function onSubmit(id, action) {
  byId(id).addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(() => action(numbersOf(event.target)));
  });
}

function takeFile(transfer, event) {
  const [file] = transfer?.files ?? [];
  if (!file) return;
  event.preventDefault();
  openPicture(file);
}

function watchFiles() {
  byId("file").addEventListener("change", ({ target }) => {
    if (target.files[0]) openPicture(target.files[0]);
    target.value = ""; // the same file may be chosen again
  });
  byId("example").addEventListener("click", openExample);
  document.addEventListener("paste", (event) => takeFile(event.clipboardData, event));
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
    takeFile(event.dataTransfer, event);
  });
}

function watchPrompts() {
  const label = () => Number(document.querySelector("input[name=label]:checked").value);
  watchPointer(byId("stage"), () => state.picture, {
    onBox: (box) => attempt(() => addBox(box)),
    onPoint: (point, off) => attempt(() => addPoint(point, off ? 0 : label())),
    onRubber: (rubber) => drawPrompts(byId("prompts"), state.picture, state.prompts, rubber),
  });
  byId("undo").addEventListener("click", () => attempt(undo));
  byId("clear").addEventListener("click", () => attempt(() => change(NOTHING)));
  onSubmit("box-form", addBox);
  onSubmit("point-form", (point) => addPoint(point, label()));
  onSubmit("everything-form", ([side, leastIou]) => everything({ side, leastIou }));
  byId("save-png").addEventListener("click", () => savePng(state.picture, state.masks));
  byId("save-json").addEventListener("click", () => saveCoco(state.picture, state.masks, state.about));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || event.target.matches("input[type=number]")) return;
    event.preventDefault();
    attempt(undo);
  });
  new ResizeObserver(() => state.picture && drawPrompts(byId("prompts"), state.picture, state.prompts, null)).observe(byId("stage"));
}

// Says in the footer once the page works without a network.
async function tellKept(sentence) {
  for (let tries = 0; tries < 60; tries++) {
    if (await isKept()) {
      byId("about").textContent = `${sentence} All files are kept: this page works without a network.`;
      return;
    }
    await new Promise((next) => { setTimeout(next, 500); });
  }
}

async function start() {
  const lack = lacking();
  if (lack) throw new Error(`this browser lacks ${lack}: take a current Chrome, Edge, Firefox or Safari`);
  say("starting");
  if (!(await settle())) return;
  startWorker();
  const wanted = Number(new URLSearchParams(location.search).get("threads")) || Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1);
  state.about = await ask("load", { threads: wanted });
  const { model, scheme, threads, everything: least } = state.about;
  byId("everything-form").elements.leastIou.value = least.iou_threshold;
  watchFiles();
  watchPrompts();
  byId("file").disabled = byId("example").disabled = false;
  say("choose an image, or take the example");
  const sentence = `EfficientViT-SAM ${model}, ${scheme}, in ONNX Runtime Web with ${threads} thread${threads > 1 ? "s" : ""}.`;
  byId("about").textContent = sentence;
  document.body.dataset.ready = threads;
  tellKept(sentence);
}

start().catch(complain);
