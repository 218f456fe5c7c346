// Masks as runs, column by column from the first run of zeros on, as COCO has them; made from logits without an image between.

import { enlarging, scaled } from "./geometry.js";

// Turns a decoder's logits into masks of one picture.
export class Enlarger {
  constructor(imageHw, { embedding, prompt_size: promptSize, mask_threshold: threshold }) {
    const low = 4 * embedding[1];
    const kept = scaled(imageHw, promptSize);
    Object.assign(this, { imageHw, low, threshold });
    [this.rows, this.columns] = kept.map((part, side) => enlarging(low, promptSize, part, imageHw[side]));
    const last = (taps, side) => Math.min(low, taps.first[imageHw[side] - 1] + taps.count);
    this.keptHw = [last(this.rows, 0), last(this.columns, 1)]; // logits beyond are padding
  }

  // The largest logit that is not padding.
  largest(logits) {
    let found = -Infinity;
    for (let y = 0; y < this.keptHw[0]; y++) {
      for (let x = 0; x < this.keptHw[1]; x++) found = Math.max(found, logits[y * this.low + x]);
    }
    return found;
  }

  // The mask of logits (low, low); `stability` is its pixels with the threshold raised by one over those with it lowered.
  mask(logits) {
    const [height, width] = this.imageHw;
    const { first, weights, count } = this.rows;
    const { threshold, low } = this;
    const column = new Float32Array(low);
    const runs = new Runs();
    let inner = 0;
    let outer = 0;
    for (let x = 0; x < width; x++) {
      this.fillColumn(column, logits, x);
      for (let y = 0, at = 0; y < height; y++, at += count) {
        const start = first[y];
        let value = 0;
        for (let tap = 0; tap < count; tap++) value += column[start + tap] * weights[at + tap];
        value = Math.fround(value);
        if (value > threshold + 1) inner++;
        if (value > threshold - 1) outer++;
        runs.add(value > threshold, x, y);
      }
    }
    return { ...runs.finished(), stability: inner / Math.max(outer, 1) };
  }

  // One column of the picture, still in the logits' rows.
  fillColumn(column, logits, x) {
    const { first, weights, count } = this.columns;
    for (let row = 0, at = first[x]; row < this.low; row++, at += this.low) {
      let value = 0;
      for (let tap = 0; tap < count; tap++) value += logits[at + tap] * weights[x * count + tap];
      column[row] = value;
    }
  }
}

// Collects the runs of a mask, its area and its tight box, right and bottom exclusive.
class Runs {
  constructor() {
    Object.assign(this, { counts: [], length: 0, current: false, area: 0, box: [Infinity, Infinity, 0, 0] });
  }

  add(on, x, y) {
    if (on !== this.current) {
      this.counts.push(this.length);
      this.length = 0;
      this.current = on;
    }
    this.length++;
    if (!on) return;
    this.area++;
    const { box } = this;
    if (x < box[0]) box[0] = x;
    if (y < box[1]) box[1] = y;
    if (x >= box[2]) box[2] = x + 1;
    if (y >= box[3]) box[3] = y + 1;
  }

  finished() {
    return { counts: [...this.counts, this.length], area: this.area, box: this.area ? this.box : [0, 0, 0, 0] };
  }
}

// Calls back with each piece of a mask that lies in one column: x, first y, end y.
export function eachPiece({ counts }, height, piece) {
  let position = 0;
  counts.forEach((length, index) => {
    const end = position + length;
    while (index % 2 && position < end) {
      const x = Math.floor(position / height);
      const stop = Math.min(end, (x + 1) * height);
      piece(x, position - x * height, stop - x * height);
      position = stop;
    }
    position = end;
  });
}

function boxIou(a, b) {
  const both = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);
  return both / (area(a) + area(b) - both);
}

// Of masks whose boxes overlap by more than `threshold` the one of highest predicted IoU, best first.
export function unique(masks, threshold = 0.7) {
  const kept = [];
  for (const mask of [...masks].sort((a, b) => b.iou - a.iou)) {
    if (kept.every(({ box }) => boxIou(box, mask.box) <= threshold)) kept.push(mask);
  }
  return kept;
}

// COCO's text for runs: differences to the run before the last, five bits a character.
export function compressed(counts) {
  let text = "";
  counts.forEach((count, index) => {
    let rest = index > 2 ? count - counts[index - 2] : count;
    let more = true;
    while (more) {
      let bits = rest & 0x1f;
      rest >>= 5;
      more = bits & 0x10 ? rest !== -1 : rest !== 0;
      if (more) bits |= 0x20;
      text += String.fromCharCode(bits + 48);
    }
  });
  return text;
}
