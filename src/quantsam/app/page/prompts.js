// Boxes and points as values, and the objects that they mean.

export const NOTHING = Object.freeze({ boxes: [], points: [], labels: [], everything: false });

export const isEmpty = (prompts) => !prompts.boxes.length && !prompts.points.length && !prompts.everything;

export function checkBox(box, { width, height }) {
  const [left, top, right, bottom] = box;
  if (left >= right || top >= bottom) throw new Error("a box's right must be right of its left, its bottom below its top");
  if (left < 0 || top < 0 || right > width || bottom > height) {
    throw new Error(`a box must lie in the image, ${width} x ${height} pixels`);
  }
  return box;
}

export function checkPoint(point, { width, height }) {
  const [x, y] = point;
  if (x < 0 || y < 0 || x >= width || y >= height) {
    throw new Error(`a point must lie in the image, ${width} x ${height} pixels`);
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

// Each box is an object; points together, perhaps with one box, are one.
export function objectsOf({ boxes, points }) {
  if (points.length) return [{ box: boxes[0], points: points.length }];
  return boxes.map((box) => ({ box, points: 0 }));
}

export function without(prompts, index) {
  if (prompts.points.length) return NOTHING;
  return { ...prompts, boxes: prompts.boxes.filter((_, i) => i !== index) };
}

export function describe({ box, points }) {
  const parts = [];
  if (box) parts.push(`box ${box.slice(0, 2).join(", ")} to ${box.slice(2).join(", ")}`);
  if (points) parts.push(points === 1 ? "1 point" : `${points} points`);
  return parts.join(" and ");
}
