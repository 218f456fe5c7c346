// Boxes and points: from pointers to pixels of the picture, and drawn over it.

const SVG = "http://www.w3.org/2000/svg";
const CLICK_PX = 5; // less is a click, more is a box
const POINT_PX = 6;

export const NOTHING = Object.freeze({ boxes: [], points: [], labels: [], everything: false });

export const isEmpty = (prompts) => !prompts.boxes.length && !prompts.points.length && !prompts.everything;

export function checkBox(box, { width, height }) {
  const [left, top, right, bottom] = box;
  if (left >= right || top >= bottom) throw new Error("a box's right must be right of its left, its bottom below its top");
  if (left < 0 || top < 0 || right > width || bottom > height) {
    throw new Error(`a box must lie in the picture, ${width} x ${height} pixels`);
  }
  return box;
}

export function checkPoint(point, { width, height }) {
  const [x, y] = point;
  if (x < 0 || y < 0 || x >= width || y >= height) {
    throw new Error(`a point must lie in the picture, ${width} x ${height} pixels`);
  }
  return point;
}

// A box is a new object, unless what was before is to be kept.
export function withBox(prompts, box, keep) {
  const before = keep && !prompts.everything ? prompts : NOTHING;
  if (before.points.length && before.boxes.length) {
    throw new Error("points refine one box: clear, or let the new box replace what was before");
  }
  return { ...before, boxes: [...before.boxes, box] };
}

export function withPoint(prompts, point, label) {
  const before = prompts.everything ? NOTHING : prompts;
  if (before.boxes.length > 1) throw new Error("points refine one box, and there are several: clear or undo first");
  return { ...before, points: [...before.points, point], labels: [...before.labels, label] };
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function inPicture(stage, picture, event) {
  const area = stage.getBoundingClientRect();
  return [
    ((event.clientX - area.left) / area.width) * picture.width,
    ((event.clientY - area.top) / area.height) * picture.height,
  ];
}

function boxBetween([ax, ay], [bx, by], { width, height }) {
  const xs = [ax, bx].map((x) => clamp(Math.round(x), 0, width)).sort((a, b) => a - b);
  const ys = [ay, by].map((y) => clamp(Math.round(y), 0, height)).sort((a, b) => a - b);
  return [xs[0], ys[0], xs[1], ys[1]];
}

// Calls onBox(box), onPoint(point, isBackground) and, while a box is dragged, onRubber(box or null).
export function watchPointer(stage, picture, { onBox, onPoint, onRubber }) {
  let start = null;
  const dragged = (event) => Math.hypot(event.clientX - start.x, event.clientY - start.y) >= CLICK_PX;
  const box = (event) => boxBetween(start.at, inPicture(stage, picture, event), picture);
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("dragstart", (event) => event.preventDefault());
  stage.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || (event.button !== 0 && event.button !== 2)) return;
    const background = event.button === 2 || event.ctrlKey;
    start = { x: event.clientX, y: event.clientY, at: inPicture(stage, picture, event), background };
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (start && !start.background) onRubber(dragged(event) ? box(event) : null);
  });
  stage.addEventListener("pointercancel", () => {
    start = null;
    onRubber(null);
  });
  stage.addEventListener("pointerup", (event) => {
    if (!start) return;
    const { at, background } = start;
    const isBox = !background && dragged(event);
    const found = isBox ? box(event) : null;
    start = null;
    onRubber(null);
    if (isBox && found[0] < found[2] && found[1] < found[3]) onBox(found);
    if (!isBox) onPoint([clamp(Math.floor(at[0]), 0, picture.width - 1), clamp(Math.floor(at[1]), 0, picture.height - 1)], background);
  });
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function boxShapes([x0, y0, x1, y1], extra = "") {
  const place = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
  return [shape("rect", { ...place, class: "halo" }), shape("rect", { ...place, class: `box ${extra}` })];
}

function pointShape([x, y], label, scale) {
  const group = shape("g", { class: label ? "on" : "off", transform: `translate(${x} ${y}) scale(${scale})` });
  group.append(shape("circle", { r: POINT_PX }));
  group.append(shape("path", { class: "sign", d: label ? "M-3 0H3M0-3V3" : "M-3 0H3" }));
  return group;
}

export function drawPrompts(svg, picture, prompts, rubber) {
  svg.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const scale = picture.width / (svg.getBoundingClientRect().width || picture.width); // points keep their size
  svg.replaceChildren(
    ...prompts.boxes.flatMap((box) => boxShapes(box)),
    ...prompts.points.map((point, i) => pointShape(point, prompts.labels[i], scale)),
    ...(rubber ? boxShapes(rubber, "rubber") : []),
  );
}
