// A picture that is larger than its view: when it is zoomed into, it is fetched at its own size, once.

import { fullPicture } from "/server.js";

const ENOUGH = 1.25; // pixels of the screen for each of the view

// Calls use(url) when the larger picture is here.
export async function sharpen(picture, stageWidth, zoom, use) {
  const shown = zoom * stageWidth * devicePixelRatio;
  if (picture.full || picture.width <= picture.view_width || shown < ENOUGH * picture.view_width) return;
  picture.full = true;
  try {
    const blob = await fullPicture(picture.picture);
    if (picture.closed) return;
    picture.source = URL.createObjectURL(blob);
    use(picture.source);
  } catch {
    picture.full = false; // the view will do; the next zoom tries again
  }
}

export function close(picture) {
  if (!picture) return;
  picture.closed = true;
  if (picture.source.startsWith("blob:")) URL.revokeObjectURL(picture.source);
}
