// Between a picture's pixels, the encoder's input and the prompt frame: numbers alone, as quantsam has them in Python.

const f32 = Math.fround;
const PRECISION_BITS = 22; // of Pillow's weights

// Height and width scaled so that the longer side is `longest`.
export function scaled([height, width], longest) {
  const scale = longest / Math.max(height, width);
  const side = (length) => Math.max(1, Math.trunc(length * scale + 0.5));
  return [side(height), side(width)];
}

// Where each pixel of a resized side comes from: a first one and whole weights, as Pillow's bilinear filter has them.
function pillowTaps(source, target) {
  const scale = source / target;
  const support = Math.max(scale, 1);
  return Array.from({ length: target }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), source);
    const shares = Array.from({ length: end - first }, (__, tap) => Math.max(0, 1 - Math.abs((tap + first - centre + 0.5) / support)));
    const sum = shares.reduce((a, b) => a + b, 0);
    return { first, weights: shares.map((share) => Math.trunc(0.5 + (share / sum) * (1 << PRECISION_BITS))) };
  });
}

// Resizes one side of pixels with `channels` bytes each; `stride` is from one pixel along that side to the next.
function resizeSide(pixels, taps, { lines, lineStride, stride, outLineStride, outStride, channels, out }) {
  taps.forEach(({ first, weights }, index) => {
    for (let line = 0; line < lines; line++) {
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (PRECISION_BITS - 1);
        let at = line * lineStride + first * stride + channel;
        for (const weight of weights) {
          sum += pixels[at] * weight;
          at += stride;
        }
        out[line * outLineStride + index * outStride + channel] = sum >> PRECISION_BITS;
      }
    }
  });
  return out;
}

// Resizes RGBA pixels to RGBA pixels, bilinear with antialiasing, to the byte as Pillow does.
export function resize(pixels, [height, width], [newHeight, newWidth]) {
  let found = pixels;
  if (newWidth !== width) {
    const out = new Uint8ClampedArray(height * newWidth * 4);
    const strides = { lines: height, lineStride: 4 * width, stride: 4, outLineStride: 4 * newWidth, outStride: 4 };
    found = resizeSide(found, pillowTaps(width, newWidth), { ...strides, channels: 3, out });
  }
  if (newHeight !== height) {
    const out = new Uint8ClampedArray(newHeight * newWidth * 4);
    const row = 4 * newWidth;
    const strides = { lines: newWidth, lineStride: 4, stride: row, outLineStride: 4, outStride: row };
    found = resizeSide(found, pillowTaps(height, newHeight), { ...strides, channels: 3, out });
  }
  return found;
}

// The encoder's input (1, 3, size, size) of RGBA pixels: resized, normalized, zeros below and to the right.
export function encoderInput(pixels, imageHw, { input_size: size, pixel_mean, pixel_std }) {
  const [height, width] = scaled(imageHw, size);
  const small = resize(pixels, imageHw, [height, width]);
  const input = new Float32Array(3 * size * size);
  for (let channel = 0; channel < 3; channel++) {
    const mean = f32(pixel_mean[channel] / 255);
    const std = f32(pixel_std[channel] / 255);
    const values = Float32Array.from({ length: 256 }, (_, value) => f32(f32(f32(value / 255) - mean) / std));
    for (let y = 0; y < height; y++) {
      const row = channel * size * size + y * size;
      for (let x = 0; x < width; x++) input[row + x] = values[small[4 * (y * width + x) + channel]];
    }
  }
  return input;
}

// Bilinear resizing along one side, without antialiasing, as PyTorch does it: for each pixel two sources, and the second's share.
function bilinear(source, target) {
  const scale = f32(source / target);
  return Array.from({ length: target }, (_, index) => {
    const centre = Math.max(f32(f32(f32(index + 0.5) * scale) - 0.5), 0);
    const low = Math.min(Math.trunc(centre), source - 1);
    return { low, high: Math.min(low + 1, source - 1), share: f32(centre - low) };
  });
}

// What becomes of the decoder's logits along one side of a picture: up-sampled to the prompt frame, the padding cut off,
// resized to the picture. Each of `side` pixels has a first logit and `count` weights.
export function enlarging(low, promptSize, kept, side) {
  const inner = bilinear(low, promptSize);
  const count = 4;
  const first = new Int32Array(side);
  const weights = new Float32Array(side * count);
  bilinear(kept, side).forEach((outer, index) => {
    const sums = new Map();
    for (const [row, part] of [[inner[outer.low], 1 - outer.share], [inner[outer.high], outer.share]]) {
      sums.set(row.low, (sums.get(row.low) ?? 0) + part * (1 - row.share));
      sums.set(row.high, (sums.get(row.high) ?? 0) + part * row.share);
    }
    first[index] = Math.min(...[...sums.keys()], low - count);
    for (const [place, weight] of sums) weights[index * count + place - first[index]] = weight;
  });
  return { first, weights, count };
}

// A prompt as the decoder takes it: points [x, y] in pixels of the picture and their labels, a box or null.
export function promptArrays({ points, labels, box }, imageHw, promptSize) {
  const [height, width] = scaled(imageHw, promptSize);
  const scale = [f32(width / imageHw[1]), f32(height / imageHw[0])];
  const corners = box ? [[box[0], box[1]], [box[2], box[3]]] : [[0, 0]];
  const kinds = [...labels, ...(box ? [2, 3] : [-1])];
  const flat = [...points, ...corners].flatMap(([x, y]) => [f32(x) * scale[0], f32(y) * scale[1]]);
  return {
    points: { type: "float32", dims: [1, kinds.length, 2], data: Float32Array.from(flat) },
    labels: { type: "int64", dims: [1, kinds.length], data: BigInt64Array.from(kinds.map(BigInt)) },
  };
}
