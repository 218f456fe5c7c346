// The picture's stage: what the pointer does on it, and how prompts and masks are drawn.

import { eachPiece } from "./masks.js";

const SVG = "http://www.w3.org/2000/svg";
const DRAG_PX = 4;
const POINT_PX = 7;
const MOST_SIDE = 2048; // of the canvas that is shown
const GOLDEN = 0.618034; // hues in steps of the golden ratio never come close to their neighbours

const clamp = (value, most) => Math.min(Math.max(value, 0), most);

// Calls back with boxes [x0, y0, x1, y1] and points [x, y] in pixels of the picture, which `size` returns.
export function watchPointer(stage, size, { onBox, onPoint, onRubber }) {
  let start = null;
  const place = (event) => {
    const area = stage.getBoundingClientRect();
    const { width, height } = size();
    return [((event.clientX - area.left) / area.width) * width, ((event.clientY - area.top) / area.height) * height];
  };
  const box = (event) => {
    const { width, height } = size();
    const [x, y] = place(event);
    const xs = [start.at[0], x].map((value) => clamp(Math.round(value), width)).sort((a, b) => a - b);
    const ys = [start.at[1], y].map((value) => clamp(Math.round(value), height)).sort((a, b) => a - b);
    return [xs[0], ys[0], xs[1], ys[1]];
  };
  const isDrag = (event) => !start.off && Math.hypot(event.clientX - start.x, event.clientY - start.y) >= DRAG_PX;
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || ![0, 2].includes(event.button)) return;
    const off = event.button === 2 || event.shiftKey || event.ctrlKey;
    start = { x: event.clientX, y: event.clientY, at: place(event), off };
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (start) onRubber(isDrag(event) ? box(event) : null);
  });
  stage.addEventListener("pointercancel", () => {
    start = null;
    onRubber(null);
  });
  stage.addEventListener("pointerup", (event) => {
    if (!start) return;
    const { at: [x, y], off } = start;
    const found = isDrag(event) ? box(event) : null;
    start = null;
    onRubber(null);
    const { width, height } = size();
    if (!found) onPoint([clamp(Math.floor(x), width - 1), clamp(Math.floor(y), height - 1)], off);
    else if (found[0] < found[2] && found[1] < found[3]) onBox(found);
  });
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function boxShapes([x, y, x1, y1], extra) {
  return ["halo", `box ${extra}`].map((name) => shape("rect", { x, y, width: x1 - x, height: y1 - y, class: name }));
}

function pointShape([x, y], label, scale) {
  const group = shape("g", { class: label ? "on" : "off", transform: `translate(${x} ${y}) scale(${scale})` });
  group.append(shape("circle", { r: POINT_PX }), shape("path", { d: label ? "M-3 0H3M0-3V3" : "M-3 0H3" }));
  return group;
}

export function drawPrompts(svg, { width, height }, { box, points, labels }, rubber) {
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const scale = width / (svg.getBoundingClientRect().width || width); // points keep their size
  const shapes = [[box, ""], [rubber, "rubber"]].flatMap(([corners, extra]) => (corners ? boxShapes(corners, extra) : []));
  svg.replaceChildren(...shapes, ...points.map((point, index) => pointShape(point, labels[index], scale)));
}

function colour(index) {
  const hue = ((0.58 + index * GOLDEN) % 1) * 6;
  const channel = (shift) => {
    const k = (shift + hue) % 6;
    return Math.round(255 * (1 - 0.85 * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [channel(5), channel(3), channel(1)];
}

// Paints masks, the largest first, on a canvas of the picture's size, or smaller if that is very large.
export function paintMasks(canvas, { width, height }, masks, { alpha = 140, most = MOST_SIDE } = {}) {
  const scale = Math.min(1, most / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const order = masks.map((_, index) => index).sort((a, b) => masks[b].area - masks[a].area);
  for (const index of order) {
    const rgba = [...colour(index), alpha];
    eachPiece(masks[index], height, (x, y0, y1) => {
      const column = Math.min(Math.floor(x * scale), canvas.width - 1);
      for (let y = Math.floor(y0 * scale); y < Math.min(Math.ceil(y1 * scale), canvas.height); y++) {
        image.data.set(rgba, 4 * (y * canvas.width + column));
      }
    });
  }
  context.putImageData(image, 0, 0);
}
