// Which part of the picture is seen: `zoom` times its size, from `x`, `y` on, shares of its width and height.

const MOST = 32;

export const WHOLE = Object.freeze({ zoom: 1, x: 0, y: 0 });

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function within({ zoom, x, y }) {
  const seen = 1 / zoom;
  return { zoom, x: clamp(x, 0, 1 - seen), y: clamp(y, 0, 1 - seen) };
}

// From a place on the stage, in shares of its sides, to the picture, in shares of its own.
export const onPicture = ({ zoom, x, y }, [u, v]) => [x + u / zoom, y + v / zoom];

// Lets a place of the picture lie under a place of the stage, both in shares.
export const placed = (zoom, [x, y], [u, v]) => within({ zoom, x: x - u / zoom, y: y - v / zoom });

// Zooms; what lies under a place of the stage stays there.
export function zoomed(view, factor, place = [0.5, 0.5]) {
  const zoom = clamp(view.zoom * factor, 1, MOST);
  return placed(zoom, onPicture(view, place), place);
}

// Moves the picture by shares of the stage.
export const panned = ({ zoom, x, y }, [du, dv]) => within({ zoom, x: x - du / zoom, y: y - dv / zoom });

const middle = ([[ax, ay], [bx, by]]) => [(ax + bx) / 2, (ay + by) / 2];

// Follows two fingers: from where they were, when the view was `view`, to where they are.
export function pinched(view, from, to, ratio) {
  const distance = ([[ax, ay], [bx, by]]) => Math.hypot(ax - bx, (ay - by) / ratio);
  const zoom = clamp((view.zoom * distance(to)) / (distance(from) || 1), 1, MOST);
  return placed(zoom, onPicture(view, middle(from)), middle(to));
}

export function wheelFactor({ deltaY, deltaMode, ctrlKey }) {
  const pixels = deltaMode === 1 ? 16 * deltaY : deltaY;
  return 2 ** (-pixels / (ctrlKey ? 60 : 200)); // a pinch on a touchpad comes as a wheel with Ctrl, in small steps
}

// Shows the part of the picture in all stages below `root`.
export function applyView(root, { zoom, x, y }) {
  root.style.setProperty("--zoom", zoom);
  root.style.setProperty("--pan-x", `${-100 * x * zoom}%`);
  root.style.setProperty("--pan-y", `${-100 * y * zoom}%`);
}
