// The worker: holds both graphs and the picture, so that the page never waits. Nothing that it is given leaves it but as masks.

import "./files.js";
import { encoderInput, promptArrays } from "./geometry.js";
import { openGraph, prepare, runGraph } from "./graph.js";
import { Enlarger, unique } from "./masks.js";

const MOST_PIXELS = 40e6;
const AT_ONCE = 8; // prompts that are decoded together
const BIG = ["ort/ort-wasm-simd-threaded.wasm", "encoder.onnx", "decoder.onnx"];

let manifest = null;
let graphs = null;
let picture = null; // { imageHw, embedding, enlarger }
let jobs = 0; // the number of the job that was asked for last: others stop

// Reads a file of the folder, telling how far it is; says so if it is not whole.
async function read(name, told) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} cannot be loaded (${answer.status}): copy the whole folder to the server`);
  const bytes = new Uint8Array(self.FOLDER.files[name]);
  let position = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (position + value.length <= bytes.length) bytes.set(value, position);
    position += value.length;
    told(value.length);
  }
  if (position !== bytes.length) throw new Error(`${name} has ${position} bytes instead of ${bytes.length}: reload the page`);
  return bytes;
}

async function load({ threads }, job) {
  manifest = await (await fetch("manifest.json")).json();
  const total = BIG.reduce((sum, name) => sum + self.FOLDER.files[name], 0);
  let loaded = 0;
  const told = (count) => {
    loaded += count;
    self.postMessage({ progress: { loaded, total, job, unit: "bytes" } });
  };
  const [wasm, encoder, decoder] = await Promise.all(BIG.map((name) => read(name, told)));
  const used = prepare({ threads, wasm });
  graphs = { encoder: await openGraph(encoder), decoder: await openGraph(decoder) };
  const { model, scheme, everything } = manifest;
  return { model, scheme, everything, threads: used };
}

// Decodes a picture, turned upright as its EXIF says.
async function pixelsOf(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${file.name || "this"} is not an image that this browser can read: convert it to PNG or JPEG`);
  }
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) {
    throw new Error(`${width} x ${height} pixels are too many, at most ${MOST_PIXELS / 1e6} million: make the image smaller`);
  }
  const canvas = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  canvas.fillStyle = "#fff"; // behind what is transparent
  canvas.fillRect(0, 0, width, height);
  canvas.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { imageHw: [height, width], pixels: canvas.getImageData(0, 0, width, height).data };
}

async function open({ file }, job) {
  const { imageHw, pixels } = await pixelsOf(file);
  if (job !== jobs) return null;
  const side = manifest.input_size;
  const image = { type: "float32", dims: [1, 3, side, side], data: encoderInput(pixels, imageHw, manifest) };
  const { ms, outputs } = await runGraph(graphs.encoder, { image });
  picture = { imageHw, embedding: outputs.embedding, enlarger: new Enlarger(imageHw, manifest) };
  return { width: imageHw[1], height: imageHw[0], encoderMs: ms };
}

// Decodes prompts; of each the masks' logits and predicted IoU, without the first, which is for prompts that leave no doubt.
async function decode(arrays) {
  const { type, dims, data } = picture.embedding;
  const { ms, outputs } = await runGraph(graphs.decoder, { embedding: { type, dims, data }, ...arrays });
  const [prompts, masks, height, width] = outputs.masks.dims;
  const found = Array.from({ length: prompts }, (_, prompt) =>
    Array.from({ length: masks - 1 }, (__, mask) => {
      const at = prompt * masks + mask + 1;
      const logits = outputs.masks.data.subarray(at * height * width, (at + 1) * height * width);
      return { logits, iou: outputs.predicted_iou.data[at] };
    }),
  );
  return { ms, found };
}

async function prompt(given) {
  const { ms, found } = await decode(promptArrays(given, picture.imageHw, manifest.prompt_size));
  const { logits, iou } = found[0].reduce((best, mask) => (mask.iou > best.iou ? mask : best));
  return { masks: [{ ...picture.enlarger.mask(logits), iou }], decoderMs: ms };
}

function gridBatch(start, side) {
  const [height, width] = picture.imageHw;
  const numbers = Array.from({ length: Math.min(AT_ONCE, side * side - start) }, (_, index) => start + index);
  const each = numbers.map((number) => {
    const point = [((number % side) + 0.5) / side * width, (Math.floor(number / side) + 0.5) / side * height];
    return promptArrays({ points: [point], labels: [1], box: null }, picture.imageHw, manifest.prompt_size);
  });
  const joined = (name, make) => ({ ...each[0][name], dims: [each.length, ...each[0][name].dims.slice(1)], data: make(each.flatMap((one) => [...one[name].data])) });
  return { points: joined("points", (all) => Float32Array.from(all)), labels: joined("labels", (all) => BigInt64Array.from(all)) };
}

// Asks at a grid of points and keeps what is good, stable and not there already.
async function everything({ side, leastIou, leastStability }, job) {
  const { enlarger } = picture;
  const good = [];
  let decoderMs = 0;
  for (let start = 0; start < side * side; start += AT_ONCE) {
    await new Promise((next) => { setTimeout(next); }); // another job may come in
    if (job !== jobs) return null;
    const { ms, found } = await decode(gridBatch(start, side));
    decoderMs += ms;
    for (const { logits, iou } of found.flat()) {
      if (!(iou > leastIou) || !(enlarger.largest(logits) > enlarger.threshold)) continue;
      const mask = enlarger.mask(logits);
      if (mask.area && mask.stability >= leastStability) good.push({ ...mask, iou });
    }
    self.postMessage({ progress: { loaded: Math.min(start + AT_ONCE, side * side), total: side * side, job, unit: "points" } });
  }
  return { masks: unique(good), decoderMs };
}

const ACTIONS = { load, open, prompt, everything, stop: () => null };

async function answer({ id, action, ...given }) {
  try {
    self.postMessage({ id, found: id === jobs ? await ACTIONS[action](given, id) : null });
  } catch (error) {
    self.postMessage({ id, error: error?.message ?? String(error) });
  }
}

let before = Promise.resolve(); // one job after the other; of those that wait the last one alone is done

self.addEventListener("message", ({ data }) => {
  jobs = data.id;
  before = before.then(() => answer(data));
});
