// From mouse, pen and fingers to boxes, points and the part of the picture that is seen.

import { onPicture, panned, pinched, wheelFactor, zoomed } from "/zoom.js";

const CLICK_PX = 5; // less is a click, more is a box

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function boxBetween([ax, ay], [bx, by], { width, height }) {
  const xs = [ax, bx].map((x) => clamp(Math.round(x), 0, width)).sort((a, b) => a - b);
  const ys = [ay, by].map((y) => clamp(Math.round(y), 0, height)).sort((a, b) => a - b);
  return [xs[0], ys[0], xs[1], ys[1]];
}

const isPan = (event) => event.button === 1 || (event.button === 0 && document.body.classList.contains("panning"));

let cancel = null; // ends the box or pan under way

// Ends what is dragged without a box; tells whether something was.
export function cancelDrag() {
  const found = cancel;
  found?.();
  return Boolean(found);
}

class Stage {
  // `view` has get() and set(view); onBox(box), onPoint(point, isBackground) and, while a box is dragged,
  // onRubber(box or null) are called with pixels of the picture.
  constructor(stage, picture, view, handlers) {
    Object.assign(this, { stage, picture, view, ...handlers });
    this.fingers = new Map(); // places on the stage by pointer
    this.drag = null; // a box, or a click as long as it is short
    this.panFrom = null;
    this.pinch = null; // from two fingers on until the last one is lifted
  }

  place({ clientX, clientY }) {
    const { left, top, width, height } = this.stage.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / height];
  }

  pixel(event) {
    const [x, y] = onPicture(this.view.get(), this.place(event));
    return [x * this.picture.width, y * this.picture.height];
  }

  box(event) {
    return boxBetween(this.drag.at, this.pixel(event), this.picture);
  }

  isBox(event) {
    const { x, y, background } = this.drag;
    return !background && Math.hypot(event.clientX - x, event.clientY - y) >= CLICK_PX;
  }

  end() {
    this.drag = null;
    this.panFrom = null;
    cancel = null;
    this.onRubber(null);
  }

  down(event) {
    if (event.pointerType === "touch") this.fingers.set(event.pointerId, this.place(event));
    if (this.fingers.size === 2) {
      this.end();
      this.pinch = { view: this.view.get(), from: [...this.fingers.values()] };
    }
    if (this.pinch || this.drag || this.panFrom) return;
    if (isPan(event)) this.panFrom = this.place(event);
    else if (event.isPrimary && (event.button === 0 || event.button === 2)) {
      const background = event.button === 2 || event.ctrlKey;
      this.drag = { x: event.clientX, y: event.clientY, at: this.pixel(event), background };
    } else return;
    cancel = () => this.end();
    this.stage.setPointerCapture(event.pointerId);
  }

  move(event) {
    if (this.fingers.has(event.pointerId)) this.fingers.set(event.pointerId, this.place(event));
    if (this.pinch) {
      const { view, from } = this.pinch;
      if (this.fingers.size !== 2) return;
      this.view.set(pinched(view, from, [...this.fingers.values()], this.picture.width / this.picture.height));
    } else if (this.panFrom) {
      const to = this.place(event);
      this.view.set(panned(this.view.get(), [to[0] - this.panFrom[0], to[1] - this.panFrom[1]]));
      this.panFrom = to;
    } else if (this.drag && !this.drag.background) this.onRubber(this.isBox(event) ? this.box(event) : null);
  }

  up(event) {
    this.fingers.delete(event.pointerId);
    if (this.pinch) {
      if (!this.fingers.size) this.pinch = null;
      return;
    }
    if (!this.drag) {
      this.end();
      return;
    }
    const { at, background } = this.drag;
    const found = this.isBox(event) ? this.box(event) : null;
    this.end();
    if (found && found[0] < found[2] && found[1] < found[3]) this.onBox(found);
    if (found) return;
    const { width, height } = this.picture;
    this.onPoint([clamp(Math.floor(at[0]), 0, width - 1), clamp(Math.floor(at[1]), 0, height - 1)], background);
  }

  lost(event) {
    this.fingers.delete(event.pointerId);
    if (!this.fingers.size) this.pinch = null;
    this.end();
  }

  wheel(event) {
    const before = this.view.get();
    const after = zoomed(before, wheelFactor(event), this.place(event));
    if (event.ctrlKey || after.zoom !== before.zoom) event.preventDefault(); // else the page scrolls
    this.view.set(after);
  }
}

export function watchPointer(stage, picture, view, handlers) {
  const watched = new Stage(stage, picture, view, handlers);
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("dragstart", (event) => event.preventDefault());
  stage.addEventListener("mousedown", (event) => {
    if (event.button === 1) event.preventDefault(); // else the page scrolls by itself
  });
  stage.addEventListener("pointerdown", (event) => watched.down(event));
  stage.addEventListener("pointermove", (event) => watched.move(event));
  stage.addEventListener("pointerup", (event) => watched.up(event));
  stage.addEventListener("pointercancel", (event) => watched.lost(event));
  stage.addEventListener("wheel", (event) => watched.wheel(event), { passive: false });
}
