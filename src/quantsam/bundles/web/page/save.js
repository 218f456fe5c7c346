// Masks as files that the browser saves.

import { compressed } from "./masks.js";
import { paintMasks } from "./stage.js";

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const stem = (name) => name.replace(/\.[^.]*$/, "") || "picture";

// The masks in the picture's size, in their colours on nothing.
export function savePng(picture, masks) {
  const canvas = document.createElement("canvas");
  paintMasks(canvas, picture, masks, { alpha: 255, most: Infinity });
  canvas.toBlob((blob) => save(blob, `${stem(picture.name)}-masks.png`), "image/png");
}

// The masks as COCO's annotations: compressed runs, boxes as x, y, width, height.
export function cocoOf(picture, masks, { model, scheme }) {
  const { width, height, name } = picture;
  return {
    info: { description: `masks of EfficientViT-SAM ${model}, ${scheme}, by quantsam` },
    images: [{ id: 1, file_name: name, width, height }],
    categories: [{ id: 1, name: "object" }],
    annotations: masks.map(({ counts, area, box: [x0, y0, x1, y1], iou }, index) => ({
      id: index + 1,
      image_id: 1,
      category_id: 1,
      iscrowd: 0,
      segmentation: { size: [height, width], counts: compressed(counts) },
      area,
      bbox: [x0, y0, x1 - x0, y1 - y0],
      predicted_iou: iou,
    })),
  };
}

export function saveCoco(picture, masks, about) {
  const text = JSON.stringify(cocoOf(picture, masks, about));
  save(new Blob([text], { type: "application/json" }), `${stem(picture.name)}-masks.json`);
}
