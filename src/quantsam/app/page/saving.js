// Masks as files: the server makes them at the picture's own size, the browser keeps them.

import { byId, element } from "/dom.js";

const ENDINGS = { mask: "mask.png", cutout: "cutout.png", coco: "coco.json" };

const inName = (text) => text.replace(/[^\p{L}\p{N}.,@+=()-]+/gu, "_");

// photo-int8-mask.png; of one of several objects photo-int8-object-2-mask.png
export function fileName(kind, picture, scheme, object) {
  const stem = picture.replace(/\.[^.]*$/, "") || picture;
  const parts = [inName(stem), inName(scheme), ...(object === null ? [] : [`object-${object + 1}`]), ENDINGS[kind]];
  return parts.join("-");
}

// Offers the schemes that have masks, and the chosen object where there are several.
export function fillSave({ panels, reference, objects, object, saving }) {
  const names = panels.map(({ name }) => name);
  byId("save").hidden = !names.length;
  const scheme = byId("save-scheme");
  const before = scheme.value;
  scheme.replaceChildren(...names.map((name) => new Option(name === reference ? "FP32" : name, name, false, name === before)));
  byId("save-object-field").hidden = objects < 2;
  byId("save-object").options[0].textContent = `object ${object + 1}`;
  for (const one of byId("save").querySelectorAll("button")) one.disabled = saving;
}

// What a PNG shows: the number of the chosen object, or null for all together.
export const savedObject = (objects, object) => (objects > 1 && byId("save-object").value === "chosen" ? object : null);

export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = element("a", { href: url, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
