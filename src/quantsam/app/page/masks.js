// Masks as the server sends them, lengths of runs row by row from the first run of zeros on, to pixels.

const COMMON = [0x56, 0xb4, 0xe9];
const MISSED = [0xd5, 0x5e, 0x00];
const EXTRA = [0xf0, 0xe4, 0x42];
const GOLDEN = 0.618034; // hues in steps of the golden ratio never come close to their neighbours

function fill(target, runs, value) {
  let position = 0;
  runs.forEach((length, index) => {
    if (index % 2) target.fill(value, position, position + length);
    position += length;
  });
}

function union(masks, count) {
  const target = new Uint8Array(count);
  for (const mask of masks) fill(target, mask.runs, 1);
  return target;
}

function hsv(hue, saturation, value) {
  const channel = (n) => {
    const k = (n + hue * 6) % 6;
    return Math.round(255 * (value - value * saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [channel(5), channel(3), channel(1)];
}

const colour = (index) => hsv((0.58 + index * GOLDEN) % 1, 0.85, 1);

const largestFirst = (masks) => masks.map((_, i) => i).sort((a, b) => masks[b].area - masks[a].area);

function put(data, pixel, rgb, alpha) {
  data.set(rgb, 4 * pixel);
  data[4 * pixel + 3] = alpha;
}

function paintOne(data, pixels, rgb, width, height) {
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!pixels[i]) continue;
      const border =
        (x > 0 && !pixels[i - 1]) ||
        (x < width - 1 && !pixels[i + 1]) ||
        (y > 0 && !pixels[i - width]) ||
        (y < height - 1 && !pixels[i + width]);
      put(data, i, rgb, border ? 255 : 128);
    }
  }
}

// Draws masks, each in the colour of its number, smaller ones above larger ones.
export function paintMasks(canvas, masks, numbers) {
  const { width, height } = canvas;
  const image = new ImageData(width, height);
  for (const index of largestFirst(masks)) {
    paintOne(image.data, union([masks[index]], width * height), colour(numbers[index]), width, height);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// Draws where masks agree with the reference's and where they depart from it.
export function paintDifferences(canvas, reference, masks, paired) {
  const { width, height } = canvas;
  const count = width * height;
  const image = new ImageData(width, height);
  const pairs = paired ? reference.map((mask, i) => [[mask], [masks[i]]]) : [[reference, masks]];
  for (const [expected, found] of pairs) {
    const a = union(expected, count);
    const b = union(found, count);
    for (let i = 0; i < count; i++) {
      if (a[i] && b[i]) put(image.data, i, COMMON, 160);
      else if (a[i]) put(image.data, i, MISSED, 235);
      else if (b[i]) put(image.data, i, EXTRA, 235);
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export function clearMasks(canvas) {
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
}

// Gives each mask the number of the reference's mask that covers most of it, so that both have one colour.
export function numbersLike(reference, masks, count) {
  const labels = new Uint16Array(count);
  for (const index of largestFirst(reference)) fill(labels, reference[index].runs, index + 1);
  const taken = new Set();
  return masks.map((mask, index) => {
    const votes = new Map();
    const pixels = union([mask], count);
    for (let i = 0; i < count; i++) {
      if (pixels[i] && labels[i]) votes.set(labels[i], (votes.get(labels[i]) ?? 0) + 1);
    }
    const [best] = [...votes].filter(([label]) => !taken.has(label)).sort((a, b) => b[1] - a[1]);
    if (!best) return reference.length + index;
    taken.add(best[0]);
    return best[0] - 1;
  });
}
