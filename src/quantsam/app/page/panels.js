// The panels: FP32 and each scheme, side by side or one over the other.

import { clearMasks, numbersLike, paintDifferences, paintMasks } from "/masks.js";

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

const title = (name, reference) => (name === reference ? "FP32" : name);

function layer(name, picture, extra = "") {
  const canvas = element("canvas", { width: picture.view_width, height: picture.view_height, className: extra });
  canvas.dataset.masks = name;
  return canvas;
}

function stage(picture, name, ...layers) {
  const made = element("div", { className: "stage" });
  made.style.setProperty("--ratio", picture.width / picture.height);
  made.dataset.stage = name;
  const shown = element("img", { src: `/api/pictures/${picture.picture}`, alt: `The picture, ${name}`, draggable: false });
  const prompts = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  prompts.setAttribute("aria-hidden", "true");
  made.append(shown, ...layers, prompts);
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
  const layers = [layer(reference, picture), layer(over, picture, "over")];
  layers[0].classList.add("under");
  const area = stage(picture, `${title(reference, reference)} left of the divider, ${over} right of it`, ...layers);
  area.append(divider);
  watchDivider(divider, area, onSplit);
  const captions = element("figcaption", { className: "captions" }, caption(reference, reference), caption(over, reference));
  return element("figure", {}, captions, area);
}

function sideFigure(picture, reference, name) {
  const figure = element("figure", {}, element("figcaption", {}, caption(name, reference)));
  figure.append(stage(picture, title(name, reference), layer(name, picture)));
  return figure;
}

// Lays the panels out anew; returns their stages.
export function layOut(root, { picture, reference, names, over, onSplit }) {
  root.classList.toggle("slider", Boolean(over));
  const figures = over
    ? [sliderFigure(picture, reference, over, onSplit)]
    : [reference, ...names].map((name) => sideFigure(picture, reference, name));
  root.replaceChildren(...figures);
  return [...root.querySelectorAll(".stage")];
}

export function setSplit(root, percent) {
  root.style.setProperty("--split", `${percent}%`);
}

const percent = (value) => `${(100 * value).toFixed(1)} %`;
const time = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms).toLocaleString("en")} ms`;
const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(2)} MiB`;

export const meanIou = (panel) => (panel.ious?.length ? panel.ious.reduce((a, b) => a + b) / panel.ious.length : null);

function figures(panel, everything) {
  const iou = meanIou(panel);
  const rows = [["encoder", time(panel.encoder_ms)], ["decoder", time(panel.decoder_ms)], ["size", mib(panel.size_bytes)]];
  const { length } = panel.masks;
  if (everything) rows.unshift(["masks", panel.left_out ? `${length} of ${length + panel.left_out}` : String(length)]);
  if (panel.ious) rows.unshift(["IoU", iou === null ? "no masks" : percent(iou)]);
  const list = element("dl");
  for (const [name, value] of rows) {
    const className = name === "IoU" ? "iou" : "";
    list.append(element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value, className })));
  }
  return list;
}

function captionBody(panel, everything, busy) {
  if (panel?.error) return element("p", { className: "problem", textContent: panel.error });
  if (panel) return figures(panel, everything);
  return element("p", { className: "busy", textContent: busy ? "waiting ..." : "no prompt yet" });
}

function paintPanel(canvas, panel, base, { everything, differences }) {
  if (!panel || panel.error) return clearMasks(canvas);
  if (differences && base) return paintDifferences(canvas, base.masks, panel.masks, !everything);
  const count = canvas.width * canvas.height;
  const own = panel.masks.map((_, i) => i);
  const numbers = everything && base && base !== panel ? numbersLike(base.masks, panel.masks, count) : own;
  return paintMasks(canvas, panel.masks, numbers);
}

// Fills the panels that `layOut` made with what is known; `results` maps names to panels.
export function fillPanels(root, { reference, results, everything, differences, busy }) {
  for (const canvas of root.querySelectorAll("canvas")) {
    paintPanel(canvas, results.get(canvas.dataset.masks), results.get(reference), { everything, differences });
  }
  for (const block of root.querySelectorAll("[data-caption]")) {
    block.lastElementChild.replaceChildren(captionBody(results.get(block.dataset.caption), everything, busy));
  }
}
