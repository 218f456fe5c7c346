// Boxes and points drawn over the picture, as large at every zoom.

const SVG = "http://www.w3.org/2000/svg";
const POINT_PX = 6;

function shape(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function boxShapes([x0, y0, x1, y1], extra = "") {
  const place = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
  return [shape("rect", { ...place, class: `halo ${extra}` }), shape("rect", { ...place, class: `box ${extra}` })];
}

const numberShape = ([x0, y0], number, scale) =>
  shape("text", { class: "number", transform: `translate(${x0} ${y0}) scale(${scale})`, x: 5, y: 15 }, String(number));

function pointShape([x, y], label, scale) {
  const group = shape("g", { class: label ? "on" : "off", transform: `translate(${x} ${y}) scale(${scale})` });
  group.append(shape("circle", { r: POINT_PX }));
  group.append(shape("path", { class: "sign", d: label ? "M-3 0H3M0-3V3" : "M-3 0H3" }));
  return group;
}

// Draws prompts and the box that is dragged; of several objects each has its number, and the chosen one stands out.
export function drawPrompts(svg, picture, prompts, { rubber, view, chosen }) {
  const { width, height } = picture;
  const { zoom, x, y } = view;
  svg.setAttribute("viewBox", `${x * width} ${y * height} ${width / zoom} ${height / zoom}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const scale = width / zoom / (svg.getBoundingClientRect().width || width);
  const { boxes, points, labels } = prompts;
  const several = boxes.length > 1;
  svg.replaceChildren(
    ...boxes.flatMap((box, i) => boxShapes(box, several && i === chosen ? "chosen" : "")),
    ...(several ? boxes.map((box, i) => numberShape(box, i + 1, scale)) : []),
    ...points.map((point, i) => pointShape(point, labels[i], scale)),
    ...(rubber ? boxShapes(rubber, "rubber") : []),
  );
}
