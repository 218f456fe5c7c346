// The panels: FP32 and each scheme, side by side or one over the other.

import { candidateButtons, iouName, iousWithFp32, mean, percent, shownMasks } from "/candidates.js";
import { element, redraw } from "/dom.js";
import { clearMasks, numbersLike, paintDifferences, paintMasks } from "/masks.js";

const title = (name, reference) => (name === reference ? "FP32" : name);

function layer(name, picture) {
  const canvas = element("canvas", { width: picture.view_width, height: picture.view_height });
  canvas.dataset.masks = name;
  return canvas;
}

// What is zoomed and moved together.
const world = (...layers) => element("div", { className: "world" }, ...layers);

function stage(picture, name, ...layers) {
  const made = element("div", { className: "stage", tabIndex: 0 });
  made.dataset.key = `stage-${name}`;
  made.style.setProperty("--ratio", picture.width / picture.height);
  made.setAttribute("role", "group");
  made.setAttribute("aria-label", `${name}: image and masks`);
  const shown = element("img", { src: picture.source, alt: `The image, ${name}`, draggable: false });
  const prompts = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  prompts.setAttribute("aria-hidden", "true");
  made.append(world(shown), ...layers, prompts);
  return made;
}

function caption(name, reference) {
  const made = element("div", {}, element("h3", { textContent: title(name, reference) }), element("div"));
  made.dataset.caption = name;
  return made;
}

function watchDivider(divider, area, move) {
  divider.addEventListener("pointerdown", (event) => {
    event.stopPropagation();
    divider.setPointerCapture(event.pointerId);
  });
  divider.addEventListener("pointermove", (event) => {
    if (!divider.hasPointerCapture(event.pointerId)) return;
    const { left, width } = area.getBoundingClientRect();
    move(Math.min(100, Math.max(0, (100 * (event.clientX - left)) / width)));
  });
}

function sliderFigure(picture, reference, over, onSplit) {
  const divider = element("div", { className: "divider" });
  const under = world(layer(reference, picture));
  const above = element("div", { className: "over" }, world(layer(over, picture)));
  under.classList.add("under");
  const name = `${title(reference, reference)} on the left, ${over} on the right`;
  const area = stage(picture, name, under, above);
  area.append(divider);
  watchDivider(divider, area, onSplit);
  const captions = element("figcaption", { className: "captions" }, caption(reference, reference), caption(over, reference));
  return element("figure", {}, captions, area);
}

function sideFigure(picture, reference, name) {
  const figure = element("figure", {}, element("figcaption", {}, caption(name, reference)));
  figure.append(stage(picture, title(name, reference), world(layer(name, picture))));
  return figure;
}

// Lays the panels out anew; returns their stages.
export function layOut(root, { picture, reference, names, over, onSplit }) {
  root.classList.toggle("slider", Boolean(over));
  const figures = over
    ? [sliderFigure(picture, reference, over, onSplit)]
    : [reference, ...names].map((name) => sideFigure(picture, reference, name));
  redraw(root, () => root.replaceChildren(...figures));
  return [...root.querySelectorAll(".stage")];
}

export function setSplit(root, share) {
  root.style.setProperty("--split", `${share}%`);
}

const time = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms).toLocaleString("en")} ms`;
const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(2)} MiB`;

function figures(panel, reference, { everything, picked }) {
  const ious = iousWithFp32(panel, reference, picked);
  const rows = [["encoder", time(panel.encoder_ms)], ["decoder", time(panel.decoder_ms)], ["size", mib(panel.size_bytes)]];
  const { length } = panel.masks;
  if (everything) rows.unshift(["masks", panel.left_out ? `${length} of ${length + panel.left_out}` : String(length)]);
  if (ious) {
    rows.unshift([iouName(ious.length), ious.length ? percent(mean(ious)) : "no masks", "iou"]);
  }
  const list = element("dl");
  for (const [name, value, className = ""] of rows) {
    list.append(element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value, className })));
  }
  return list;
}

function captionBody(panel, known) {
  if (panel?.error) return [element("p", { className: "problem", textContent: panel.error })];
  if (!panel) return [element("p", { className: "busy", textContent: known.busy ? "waiting ..." : "no prompt yet" })];
  const { object, pick, picked } = known;
  const name = title(panel.name, known.reference);
  const buttons = candidateButtons(panel, { object, pick, title: name, picked: picked.get(panel.name) });
  return [figures(panel, known.results.get(known.reference), known), ...buttons];
}

function paintPanel(canvas, panel, base, { everything, differences, picked }) {
  if (!panel || panel.error) return clearMasks(canvas);
  const masks = shownMasks(panel, picked.get(panel.name));
  const expected = base && shownMasks(base, picked.get(base.name));
  if (differences && base) return paintDifferences(canvas, expected, masks, !everything);
  const count = canvas.width * canvas.height;
  const numbers = everything && base && base !== panel ? numbersLike(expected, masks, count) : masks.map((_, i) => i);
  return paintMasks(canvas, masks, numbers);
}

// Fills the panels that `layOut` made with what is known: `results` maps names to panels, `picked` to the numbers of
// masks that were picked, `object` is the chosen object, pick(name, number) is called when a mask of it is picked.
export function fillPanels(root, known) {
  const { reference, results } = known;
  for (const canvas of root.querySelectorAll("canvas")) {
    paintPanel(canvas, results.get(canvas.dataset.masks), results.get(reference), known);
  }
  redraw(root, () => {
    for (const block of root.querySelectorAll("[data-caption]")) {
      block.lastElementChild.replaceChildren(...captionBody(results.get(block.dataset.caption), known));
    }
  });
}
